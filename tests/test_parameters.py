"""The operations' parameters: every range, up to its limits."""

import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from vidproc.errors import ErrorCode, ServiceError
from vidproc.operations.parameters import (
    EXAMPLES,
    PARAMETERS,
    AspectRatio,
    Compress,
    ExtractAudio,
    Gif,
    Parameters,
    Resolution,
    WebM,
    describe_parameters,
    parse_parameters,
)

PROPERTY = settings(max_examples=150, deadline=None, derandomize=True, database=None)

SEGMENT = {"start_time": 0, "duration": 5}
SIZE = {"width": 1280, "height": 720}


def parse(operation: str, **fields: Any) -> Parameters:
    parameters, warnings = parse_parameters(operation, fields)
    assert not warnings, warnings
    return parameters


class ParametersTestCase(SynchronousTestCase):
    def check(
        self, operation: str, name: str, base: dict[str, Any], good: list[Any], bad: list[Any]
    ) -> None:
        """`good` values of the parameter `name` are accepted; `bad` ones get 422 that names it."""
        for value in good:
            parameters = parse(operation, **{**base, name: value})
            self.assertEqual(getattr(parameters, name), value, name)
        for value in bad:
            error = self.assertRaises(ServiceError, parse, operation, **{**base, name: value})
            self.assertEqual(error.code, ErrorCode.INVALID_PARAMETER, (name, value))
            self.assertIn(name, error.description, repr(value)[:40])
            self.assertIn(operation, error.description)
            example = json.loads(error.solution.partition("Example: ")[2])
            self.assertIn(name, example)
            parse(operation, **example)


class ErrorTests(ParametersTestCase):
    """What a client that knows none of the types is told."""

    def problem(self, operation: str, **fields: Any) -> str:
        error = self.assertRaises(ServiceError, parse, operation, **fields)
        return str(error.description).partition(" is invalid: ")[2]

    def test_the_choices_and_the_range_are_named(self) -> None:
        for operation, fields, problem in (
            (
                "compress",
                {"preset": "slow"},
                'preset must be one of balanced, fast, small, not "slow".',
            ),
            ("compress", {"quality": "95"}, 'quality must be a number from 70 to 99, not "95".'),
            (
                "compress",
                {"plays": ["vp9"]},
                'plays must be a list of av1, h264, hevc, not ["vp9"].',
            ),
            (
                "compress",
                {"target_size": 0},
                "target_size must be a whole number of at least 1, not 0.",
            ),
            (
                "resolution",
                {**SIZE, "width": 12.5},
                "width must be a whole number from 16 to 8192, not 12.5.",
            ),
            (
                "aspect_ratio",
                {"aspect_ratio": 1.78},
                'aspect_ratio must be "W:H" from 1:10 to 10:1, not 1.78.',
            ),
            (
                "extract_audio",
                {"track": "\ud800" * 99},
                "track must be a track number from 1, or a language",
            ),
        ):
            self.assertTrue(self.problem(operation, **fields).startswith(problem), problem)

    def test_a_whole_number_may_have_a_fraction_of_zero(self) -> None:
        """Some languages write 1280 as 1280.0; JSON Schema counts it as an integer."""
        size = parse("resolution", width=1280.0, height=720.0)
        self.assertEqual(size, Resolution(width=1280, height=720))
        self.assertEqual(parse("extract_audio", track=2.0), ExtractAudio(track=2))
        self.assertIn("not 1e+300", self.problem("resolution", width=1e300, height=720))


class CompressTests(ParametersTestCase):
    def test_defaults(self) -> None:
        self.assertEqual(
            parse("compress"),
            Compress(quality=95.0, codec="h264", target_size=None, preset="balanced"),
        )

    def test_ranges(self) -> None:
        bad: list[Any]
        bad = [69.99, 99.01, 0, -1, "95", True, [95], float("nan"), float("inf")]
        self.check("compress", "quality", {}, [70, 99, 95.5], bad)
        self.check("compress", "codec", {}, ["h264", "hevc", "av1"], ["vp9", "H264", "", 264])
        bad = [0, -1, 1 << 40, 1.5, "8M", 10**400]
        self.check("compress", "target_size", {}, [1, 8 << 20, (1 << 40) - 1], bad)
        self.check("compress", "preset", {}, ["fast", "balanced", "small"], ["slow", 1])


class ResolutionTests(ParametersTestCase):
    def test_defaults(self) -> None:
        self.assertEqual(parse("resolution", **SIZE), Resolution(width=1280, height=720, fit="pad"))

    def test_ranges(self) -> None:
        bad = [15, 8193, 0, -16, 1280.5, "1280", True, 10**400]
        for name in ("width", "height"):
            self.check("resolution", name, SIZE, [16, 17, 8192], bad)
        self.check("resolution", "fit", SIZE, ["pad", "crop", "stretch"], ["fill", "", 1])

    def test_both_are_required(self) -> None:
        for name in ("width", "height"):
            others = {key: value for key, value in SIZE.items() if key != name}
            for fields in (others, {**others, name: None}):
                error = self.assertRaises(ServiceError, parse, "resolution", **fields)
                self.assertEqual(error.code, ErrorCode.INVALID_PARAMETER)
                self.assertIn(f"`{name}`", error.description)


class AspectRatioTests(ParametersTestCase):
    def test_ratios(self) -> None:
        for text, ratio in [
            ("16:9", (16, 9)),
            ("4:3", (4, 3)),
            ("2.39:1", (2.39, 1)),
            (" 16 : 9 ", (16, 9)),
            ("1:10", (1, 10)),
            ("10:1", (10, 1)),
            ("0.3:3", (0.3, 3)),
            ("0.1:1", (0.1, 1)),
            ("1920:1080", (1920, 1080)),
        ]:
            parameters = parse("aspect_ratio", aspect_ratio=text)
            assert isinstance(parameters, AspectRatio)
            self.assertEqual(parameters.ratio(), ratio)
            self.assertEqual(parameters.fit, "pad")

    def test_ranges(self) -> None:
        bad: list[Any] = [
            "10.01:1",
            "1:10.01",
            "0:1",
            "1:0",
            "0:0",
            "16:9:1",
            "16/9",
            "16x9",
            "-16:9",
            "16:-9",
            "1e1:1",
            "nan:1",
            "inf:inf",
            "",
            ":",
            "16:",
            "widescreen",
            "١٦:٩",
            "9" * 400 + ":" + "9" * 400,
            16,
            1.78,
            ["16:9"],
        ]
        self.check("aspect_ratio", "aspect_ratio", {}, ["16:9", "1:10", "10:1"], bad)
        ratio = {"aspect_ratio": "16:9"}
        self.check("aspect_ratio", "fit", ratio, ["pad", "crop", "stretch"], ["fill", 1])

    def test_it_is_required(self) -> None:
        error = self.assertRaises(ServiceError, parse, "aspect_ratio")
        self.assertEqual(error.code, ErrorCode.INVALID_PARAMETER)
        self.assertIn("`aspect_ratio`", error.description)


class ExtractAudioTests(ParametersTestCase):
    def test_defaults(self) -> None:
        self.assertEqual(parse("extract_audio"), ExtractAudio(bitrate=None, track=None))

    def test_ranges(self) -> None:
        bad: list[Any] = [31_999, 320_001, 0, -1, "128k", 128_000.5, True]
        self.check("extract_audio", "bitrate", {}, [32_000, 128_000, 320_000], bad)
        good: list[Any] = [1, 1000, "1", "999", "en", "eng", "pt-BR", "zh-Hans-CN"]
        bad = [0, -1, 1001, 1.5, True, "", "e", "english", "eng\n", "0:a:1", "-map", "a b", ["eng"]]
        self.check("extract_audio", "track", {}, good, bad)


class SegmentTests(ParametersTestCase):
    def test_defaults(self) -> None:
        self.assertEqual(
            parse("gif", **SEGMENT),
            Gif(start_time=0.0, duration=5.0, fps=12.0, width=480, max_size=None),
        )
        self.assertEqual(
            parse("webm", **SEGMENT),
            WebM(start_time=0.0, duration=5.0, codec="vp9", width=None, quality=30),
        )

    def test_times(self) -> None:
        for operation in ("gif", "webm"):
            parameters = parse(operation, start_time="00:01:30.5", duration="2.5")
            assert isinstance(parameters, Gif | WebM)
            self.assertEqual((parameters.start, parameters.length), (90.5, 2.5))

    def test_ranges_of_times(self) -> None:
        bad: list[Any] = [
            -1,
            -0.001,
            "-1",
            "",
            "soon",
            "00:60:00",
            "1h",
            10_000_001,
            True,
            [0],
            float("nan"),
            10**400,
            "9" * 400,
            "9" * 400 + ":00:00",
        ]
        for operation in ("gif", "webm"):
            good = [0, 12.5, "12.5", "00:00:10", 10_000_000]
            self.check(operation, "start_time", SEGMENT, good, bad)
            good = [0.001, 600, "00:10:00"]
            self.check(operation, "duration", SEGMENT, good, [0, 0.0, "0", "00:00:00", *bad])
        self.check("gif", "duration", SEGMENT, [600], [600.001, "00:10:01"])
        self.check("webm", "duration", SEGMENT, [601, 10_000_000], [10_000_001])

    def test_both_are_required(self) -> None:
        for operation in ("gif", "webm"):
            for name in SEGMENT:
                fields = {key: value for key, value in SEGMENT.items() if key != name}
                error = self.assertRaises(ServiceError, parse, operation, **fields)
                self.assertEqual(error.code, ErrorCode.INVALID_PARAMETER)
                self.assertIn(f"`{name}`", error.description)

    def test_ranges_of_gif(self) -> None:
        bad: list[Any] = [0, 0.99, 50.01, -1, "12", True, float("inf")]
        self.check("gif", "fps", SEGMENT, [1, 12.5, 50], bad)
        self.check("gif", "width", SEGMENT, [16, 1920], [15, 1921, 480.5, "480"])
        self.check("gif", "max_size", SEGMENT, [1, (1 << 40) - 1], [0, -1, 1 << 40, "8M"])

    def test_ranges_of_webm(self) -> None:
        self.check("webm", "codec", SEGMENT, ["vp9", "av1"], ["vp8", "h264", 9])
        self.check("webm", "width", SEGMENT, [16, 8192], [15, 8193, 480.5])
        self.check("webm", "quality", SEGMENT, [4, 30, 63], [3, 64, 30.5, "30"])


class TableTests(SynchronousTestCase):
    def test_the_operations(self) -> None:
        self.assertEqual(
            list(PARAMETERS),
            ["compress", "resolution", "aspect_ratio", "extract_audio", "gif", "webm"],
        )

    def test_an_unknown_operation(self) -> None:
        for operation in ("dance", "", "Compress", "webM"):
            error = self.assertRaises(ServiceError, parse_parameters, operation, {})
            self.assertEqual(error.code, ErrorCode.BAD_REQUEST)
            self.assertIn("extract_audio", error.solution)

    def test_the_examples_are_right(self) -> None:
        self.assertEqual(set(EXAMPLES), set(PARAMETERS))
        for operation, example in EXAMPLES.items():
            parse(operation, **msgspec.json.decode(example))

    def test_null_stands_for_the_default(self) -> None:
        self.assertEqual(parse("compress", quality=None, codec=None), Compress())

    def test_unknown_keys_are_named_in_warnings(self) -> None:
        parameters, warnings = parse_parameters("compress", {"crf": 23, "quality": 80})
        self.assertEqual(parameters, Compress(quality=80.0))
        self.assertEqual(len(warnings), 1)
        self.assertIn("'crf'", warnings[0])

    def test_warnings_are_bounded(self) -> None:
        fields = {f"{number:04d}" + "x" * 1000: 1 for number in range(3000)}
        _, warnings = parse_parameters("compress", fields)
        self.assertLessEqual(len(warnings), 20)
        self.assertLess(max(map(len, warnings)), 200)

    def test_methods_are_no_parameters(self) -> None:
        for operation, name in [("aspect_ratio", "ratio"), ("gif", "start"), ("gif", "length")]:
            fields = msgspec.json.decode(EXAMPLES[operation])
            _, warnings = parse_parameters(operation, {**fields, name: 1})
            self.assertEqual(len(warnings), 1, name)

    def test_every_parameter_is_described(self) -> None:
        """In a sentence, and with its unit if it has one."""
        for operation, kind in PARAMETERS.items():
            for name in kind.__struct_fields__:
                described = describe_parameters(operation)[name]
                self.assertRegex(described["description"], r"^[A-Z].*\.$", f"{operation} {name}")
        self.assertEqual(describe_parameters("gif")["width"]["unit"], "px")
        self.assertNotIn("unit", describe_parameters("compress")["quality"])

    def test_descriptions_name_every_parameter(self) -> None:
        for operation, kind in PARAMETERS.items():
            described = describe_parameters(operation)
            self.assertEqual(set(described), {field.name for field in msgspec.structs.fields(kind)})
        self.assertEqual(describe_parameters("resolution")["width"]["minimum"], 16)
        self.assertEqual(describe_parameters("gif")["fps"]["default"], 12)

    @PROPERTY
    @given(
        st.sampled_from(list(PARAMETERS)),
        st.dictionaries(
            st.sampled_from(
                sorted(
                    {f.name for kind in PARAMETERS.values() for f in msgspec.structs.fields(kind)}
                )
            ),
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text(max_size=20)
            | st.text(alphabet="0123456789:.", max_size=12)
            | st.lists(st.integers(), max_size=2)
            | st.sampled_from([0, 5, 16, 480, 720, "16:9", "h264", "pad", 10**400]),
        ),
    )
    def test_any_fields_are_parameters_or_a_422(self, name: str, fields: dict[str, Any]) -> None:
        try:
            parameters, _ = parse_parameters(name, fields)
        except ServiceError as error:
            self.assertEqual(error.code, ErrorCode.INVALID_PARAMETER)
            self.assertLess(len(error.description), 300)
            return
        self.assertIsInstance(parameters, PARAMETERS[name])
        if isinstance(parameters, Gif | WebM):
            self.assertTrue(0 <= parameters.start <= 10_000_000)
            self.assertTrue(0 < parameters.length <= 10_000_000)
