"""The OpenAPI document: valid, complete, and with the types of the real answers."""

from __future__ import annotations

from typing import Any

from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.test_http_connection import HTTPTestCase
from vidproc.frontends.http.openapi import descriptions, document
from vidproc.frontends.http.resources import ROUTES
from vidproc.operations.parameters import PARAMETERS


class DocumentTests(HTTPTestCase):
    def setUp(self) -> None:
        super().setUp()
        response = self.client.request("GET", "/api/v1/openapi.json")
        self.assertEqual(
            (response.status, response.headers["Content-Type"]), (200, "application/json")
        )
        self.document: dict[str, Any] = response.json

    def test_it_is_valid(self) -> None:
        """According to a third-party validator."""
        OpenAPIV31SpecValidator(self.document).validate()

    def test_every_route_is_described(self) -> None:
        """Nothing else is described. The page and its files are not part of the API."""
        routes = {(route.method, route.path) for route in ROUTES if is_api(route.path)}
        self.assertEqual(set(descriptions()), routes)
        described = {
            (method.upper(), path)
            for path, operations in self.document["paths"].items()
            for method in operations
        }
        self.assertEqual(described, routes)
        self.assertEqual(self.document, document(ROUTES))

    def test_the_query_of_an_upload_has_every_parameter(self) -> None:
        query = self.document["paths"]["/api/v1/tasks"]["post"]["parameters"]
        names = {parameter["name"] for parameter in query if parameter["in"] == "query"}
        wanted = {name for kind in PARAMETERS.values() for name in kind.__struct_fields__}
        self.assertEqual(names, wanted | {"type", "filename"})
        (kind,) = (parameter for parameter in query if parameter["name"] == "type")
        self.assertEqual(kind["schema"]["enum"], list(PARAMETERS))

    def test_who_needs_a_token(self) -> None:
        paths = self.document["paths"]
        self.assertEqual(paths["/healthz"]["get"]["security"], [])
        self.assertIn({"token": []}, paths["/api/v1/tasks/{task_id}"]["get"]["security"])

    def test_mmps_request_id_is_not_in_it(self) -> None:
        for name, schema in self.document["components"]["schemas"].items():
            self.assertNotIn("id", schema.get("properties", {}), name)

    def test_types_are_those_of_the_answers(self) -> None:
        """The server's answers have all required properties of the schema."""
        schemas = self.document["components"]["schemas"]
        for path, name in (
            ("/api/v1/info", "ServerDescription"),
            ("/api/v1/server", "ServerFigures"),
            ("/healthz", "Health"),
        ):
            answer = self.client.request("GET", path).json
            self.assertLessEqual(set(schemas[name]["required"]), set(answer), name)
            self.assertLessEqual(set(answer), set(schemas[name]["properties"]), name)


def is_api(path: str) -> bool:
    """Return whether a path is a part of the API, and not of the page."""
    return path.startswith("/api/") or path in ("/metrics", "/healthz", "/readyz")
