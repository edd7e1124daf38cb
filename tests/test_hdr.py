"""HDR films stay HDR with all that says so, or become SDR that looks as it should."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from typing import Any, cast

import av
from twisted.trial.unittest import TestCase

from support.job import local_runner
from tests import media_harness as media
from vidproc.errors import ServiceError
from vidproc.ffmpeg.media import MasteringDisplay, VideoStream
from vidproc.operations.compress.encode import joined_parameters, video_encoder_for
from vidproc.operations.compress.hdr import hdr_parameters

HDR10 = media.CLIPS / "flower-270p-hdr10.mp4"
HLG = media.CLIPS / "flower-270p-hlg.mp4"
DOLBY = media.CLIPS / "iphone-270p-hlg-dolby.mp4"

PQ_TRANSFER, HLG_TRANSFER = 16, 18  # ITU-T H.273
BT2020 = 9


def facts(path: Path) -> dict[str, Any]:
    """Return what the first frame says of its colours, as the decoder tells it."""
    with av.open(str(path)) as container:
        frame = next(container.decode(container.streams.video[0]))
    found: dict[str, Any] = {
        "format": frame.format.name,
        "transfer": int(frame.color_trc),
        "primaries": int(frame.color_primaries),
        "matrix": int(frame.colorspace),
        "range": int(frame.color_range),
        "dynamic": [],
    }
    for side_data in cast("list[Any]", frame.side_data):
        kind = side_data.type.name
        if kind == "MASTERING_DISPLAY_METADATA":
            numbers = struct.unpack_from("20i", bytes(side_data))
            found["mastering"] = [numbers[i] / numbers[i + 1] for i in range(0, 20, 2)]
        elif kind == "CONTENT_LIGHT_LEVEL":
            found["light"] = struct.unpack_from("2I", bytes(side_data))
        elif kind.startswith(("DOVI", "DYNAMIC")):
            found["dynamic"].append(kind)
    return found


def frame_facts(path: Path) -> list[tuple[Any, ...]]:
    """Return what each frame says of its colours."""
    found: list[tuple[Any, ...]] = []
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.video[0]):
            kinds = sorted(data.type.name for data in cast("list[Any]", frame.side_data))
            found.append(
                (
                    frame.format.name,
                    *map(int, (frame.color_trc, frame.color_primaries, frame.colorspace)),
                    *(kind for kind in kinds if kind in _STATIC),
                )
            )
    return found


_STATIC = ("CONTENT_LIGHT_LEVEL", "MASTERING_DISPLAY_METADATA")
_GRADED = (
    ":hdr10=1:repeat-headers=1:max-cll=1000,400:master-display="
    "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
)


def mean_luma(path: Path, place: str) -> float:
    """Return the mean luma of a frame that stays HDR, by its code values."""
    data = decoded(path, f"{place}scale=96:54:flags=area,format=yuv420p10le")
    values: tuple[int, ...] = struct.unpack_from(f"<{96 * 54}H", data)
    return sum(value - 64 for value in values) / len(values)


def decoded(path: Path, filters: str) -> bytes:
    """Return the 16-bit planes that `filters` make of a film's first frame."""
    done = subprocess.run(
        [
            *(media.tools().path, "-nostdin", "-loglevel", "error", "-i", str(path)),
            *("-vf", filters, "-frames:v", "1", "-f", "rawvideo", "-"),
        ],
        capture_output=True,
        check=True,
    )
    return done.stdout


def luma_level(path: Path) -> float:
    """Return the mean luma of an SDR film's first frame: 0 is black, 1 is white."""
    data = decoded(path, "scale=96:54:flags=area,format=gray")
    return sum((value - 16) / 219 for value in data) / len(data)


def reference_level(path: Path) -> float:
    """Return the mean luma that an HDR film's first frame should have in SDR.

    Reckoned from the pixels by ITU-R BT.2100 (PQ, and HLG at 1,000 cd/m2), with a reference white
    of 203 cd/m2 (BT.2408), BT.2087's matrix, a Moebius knee from half of that on to 1,000 cd/m2,
    and BT.1886; none of it is the service's code.
    """
    with av.open(str(path)) as container:
        pq = int(next(container.decode(video=0)).color_trc) == PQ_TRANSFER
    data = decoded(path, "scale=96:54:flags=area,format=yuv444p16le")
    values = struct.unpack(f"<{len(data) // 2}H", data)
    count = len(values) // 3
    total = 0.0
    for y, cb, cr in zip(
        values[:count], values[count : 2 * count], values[2 * count :], strict=True
    ):
        luma = (y / 256 - 16) / 219
        blue, red = ((chroma / 256 - 128) / 224 for chroma in (cb, cr))
        r, b = luma + 1.4746 * red, luma + 1.8814 * blue
        g = luma - 0.16455 * blue - 0.57135 * red
        light = _from_pq((r, g, b)) if pq else _from_hlg((r, g, b))
        r, g, b = (each / 203 for each in light)
        sdr = (
            1.6605 * r - 0.5876 * g - 0.0728 * b,
            -0.1246 * r + 1.1329 * g - 0.0083 * b,
            -0.0182 * r - 0.1006 * g + 1.1187 * b,
        )
        peak = max(*sdr, 1e-6)
        shown = [min(max(each * _knee(peak) / peak, 0.0), 1.0) ** (1 / 2.4) for each in sdr]
        total += 0.2126 * shown[0] + 0.7152 * shown[1] + 0.0722 * shown[2]
    return total / count


def _from_pq(signal: tuple[float, ...]) -> list[float]:
    """Return cd/m2 (SMPTE ST 2084)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    powers = [min(max(value, 0.0), 1.0) ** (1 / m2) for value in signal]
    return [10_000 * (max(p - c1, 0.0) / (c2 - c3 * p)) ** (1 / m1) for p in powers]


def _from_hlg(signal: tuple[float, ...]) -> list[float]:
    """Return cd/m2 on a display of 1,000 cd/m2 (ARIB STD-B67)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = [
        v * v / 3 if v <= 0.5 else (2.718281828 ** ((v - c) / a) + b) / 12
        for v in (min(max(value, 0.0), 1.0) for value in signal)
    ]
    luma = 0.2627 * scene[0] + 0.6780 * scene[1] + 0.0593 * scene[2]
    return [1000 * value * max(luma, 1e-9) ** 0.2 for value in scene]


def _knee(level: float, start: float = 0.5, peak: float = 5.0) -> float:
    """Return a level above `start` bent so that `peak` becomes 1."""
    if level <= start:
        return level
    under = start * start - 2 * start + peak
    a = -start * start * (peak - 1) / under
    b = (start * start - 2 * start * peak + peak) / (peak - 1)
    return (b * b + 2 * b * start + start * start) / (b - a) * (level + a) / (level + b)


class HdrTests(TestCase):
    def setUp(self) -> None:
        self.folder = media.scratch(self)

    def compress(self, source: Path, **fields: Any) -> media.Result:
        fields = {"quality": 80, "preset": "fast", **fields}
        return media.process(source, "compress", fields, self.folder / "out")

    def assert_same_colours(self, result: media.Result, source: Path) -> None:
        """Field by field, within the rounding of a codec's own units."""
        before, after = facts(source), facts(result.path)
        self.assertEqual(after.pop("dynamic"), [])
        before.pop("dynamic")
        self.assertEqual(set(before), set(after))
        for number, value in enumerate(before.pop("mastering", [])):
            self.assertApproximates(after["mastering"][number], value, max(2e-5, value * 1e-4))
        after.pop("mastering", None)
        self.assertEqual(after, before)
        self.assertFalse(result.product.details["already_optimal"])

    def test_hdr10_stays_hdr10(self) -> None:
        self.assertEqual(facts(HDR10)["light"], (1000, 400))
        for codec in ("hevc", "av1"):
            result = self.compress(HDR10, codec=codec)
            self.assert_same_colours(result, HDR10)
            self.assertEqual(facts(result.path)["transfer"], PQ_TRANSFER)
            self.assertEqual(result.media.summary()["hdr"], "pq")
            # What players of MP4 read before they decode anything.
            data = result.path.read_bytes()
            at = data.index(b"colrnclx") + 8
            self.assertEqual(struct.unpack_from(">3HB", data, at), (BT2020, PQ_TRANSFER, BT2020, 0))
            self.assertIn("mdcv", str(data))
            self.assertIn("clli", str(data))
            self.assertEqual(result.warnings, [])

    def test_hlg_stays_hlg(self) -> None:
        for codec in ("hevc", "av1"):
            result = self.compress(HLG, codec=codec)
            self.assert_same_colours(result, HLG)
            self.assertEqual(facts(result.path)["transfer"], HLG_TRANSFER)
            self.assertEqual(result.media.summary()["hdr"], "hlg")

    def test_shots_stay_hdr(self) -> None:
        """Each frame of a film that was joined from segments says what the source's do."""
        for source, transfer, more in (
            (HDR10, "smpte2084", _GRADED),
            (HLG, "arib-std-b67", ""),
        ):
            film = self.film(source, transfer, more)
            result = self.compress(film, codec="hevc", quality=88)
            self.assertEqual(result.product.details["shots"], 4)
            self.assertApproximates(result.product.details["measured_score"], 88, 1.0)
            self.assert_same_colours(result, film)
            before, after = frame_facts(film), frame_facts(result.path)
            self.assertEqual(after, before)
            self.assertEqual(len(set(after)), 1)
            for number in range(4):
                place = f"select=eq(n\\,{number * 50 + 20}),"
                want, have = (mean_luma(path, place) for path in (film, result.path))
                self.assertApproximates(have / want, 1.0, 0.03)

    def film(self, source: Path, transfer: str, more: str) -> Path:
        """Return a film of four shots and 17 s, made of a clip."""
        views = ("null", "vflip,hflip", "transpose,scale=192:108", "crop=iw/2:ih/2,scale=192:108")
        graph = "[0:v]fps=12,scale=192:108,setsar=1,split=4[a0][a1][a2][a3];"
        for number, view in enumerate(views):
            graph += f"[a{number}]{view},setsar=1,loop=-1:size=12,trim=end_frame=51,"
            graph += f"setpts=N/(12*TB)[b{number}];"
        graph += "[b0][b1][b2][b3]concat=4[v]"
        path = self.folder / f"film-{transfer}.mp4"
        parameters = f"log-level=error:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
        subprocess.run(
            [
                *(media.tools().path, "-nostdin", "-loglevel", "error", "-i", str(source)),
                *("-filter_complex", graph, "-map", "[v]", "-c:v", "libx265"),
                *("-preset", "ultrafast", "-crf", "6", "-x265-params", parameters + more),
                *("-pix_fmt", "yuv420p10le", "-tag:v", "hvc1", str(path)),
            ],
            capture_output=True,
            check=True,
        )
        return path

    def test_a_size_instead_of_a_quality(self) -> None:
        """Two passes have parameters of their own."""
        result = self.compress(HDR10, codec="hevc", target_size=30_000)
        self.assert_same_colours(result, HDR10)

    def test_the_score_is_that_of_what_a_viewer_sees(self) -> None:
        """Of both after tone mapping: the same as if the results themselves were compared."""
        result = self.compress(HLG, codec="hevc")
        sdr = "zscale=t=linear:npl=203,format=gbrpf32le,zscale=p=bt709,tonemap=mobius:param=0.5:"
        sdr += "peak=5:desat=0,zscale=p=bt709:t=bt709:m=bt709:r=limited,format=yuv420p"
        done = subprocess.run(
            [
                *(media.tools().path, "-hide_banner", "-i", str(result.path), "-i", str(HLG)),
                "-filter_complex",
                f"[0:v]format=yuv444p10le,{sdr},settb=1/25,setpts=N[a];"
                f"[1:v]format=yuv444p10le,{sdr},settb=1/25,setpts=N[b];[a][b]libvmaf",
                *("-f", "null", "-"),
            ],
            capture_output=True,
            check=True,
        )
        score = float(done.stderr.rpartition(b"VMAF score: ")[2].split()[0])
        self.assertApproximates(result.product.details["measured_score"], score, 0.3)

    def test_dolby_vision_becomes_its_base_layer(self) -> None:
        self.assertEqual(set(facts(DOLBY)["dynamic"]), {"DOVI_RPU_BUFFER", "DOVI_METADATA"})
        result = self.compress(DOLBY, codec="hevc")
        self.assert_same_colours(result, DOLBY)
        self.assertEqual(
            result.warnings, ["The Dolby Vision metadata was left out; the video is HLG."]
        )
        self.assertNotIn(b"dvvC", result.path.read_bytes())

    def test_hdr10_plus_becomes_hdr10(self) -> None:
        path = with_hdr10_plus(HDR10, self.folder)
        self.assertEqual(facts(path)["dynamic"], ["DYNAMIC_HDR_PLUS"])
        result = self.compress(path, codec="av1")
        self.assert_same_colours(result, path)
        self.assertEqual(result.warnings, ["The HDR10+ metadata was left out; the video is HDR10."])

    def test_dolby_vision_without_a_base_layer_is_refused(self) -> None:
        """In any container: profile 5 says nothing of its colours, or full range."""
        for name, change in (
            ("plain.ts", "colour_primaries=2:transfer_characteristics=2:matrix_coefficients=2"),
            ("full.ts", "video_full_range_flag=1"),
        ):
            path = self.folder / name
            filters = f"filter_units=remove_types=39,hevc_metadata={change}"
            media.ffmpeg("-i", DOLBY, "-c", "copy", "-bsf:v", filters, path)
            error = self.assertRaises(ServiceError, self.compress, path, codec="hevc")
            self.assertEqual(error.code, 415)
            self.assertIn("profile 5", error.description)

    def test_sdr_looks_as_it_should(self) -> None:
        """As bright as the reference, in H.264 and wherever it is asked for."""
        size = {"width": 240, "height": 136}
        for source, operation, fields in (
            (HDR10, "compress", {"quality": 80, "preset": "fast"}),
            (HLG, "compress", {"quality": 80, "preset": "fast", "codec": "hevc", "hdr": "sdr"}),
            (HLG, "resolution", {**size, "fit": "stretch"}),
            (DOLBY, "resolution", {**size, "fit": "stretch"}),
        ):
            result = media.process(source, operation, fields, self.folder / "out")
            found = facts(result.path)
            self.assertEqual(found["format"], "yuv420p")
            self.assertEqual(
                (found["transfer"], found["primaries"], found["matrix"], found["range"]),
                (1, 1, 1, 1),
            )
            self.assertNotIn("mastering", found)
            level = luma_level(result.path) / reference_level(source)
            self.assertApproximates(level, 1.0, 0.05, f"{source.name} {fields}")
            self.assertTrue(any("standard dynamic range" in each for each in result.warnings))

    def test_keeping_hdr_in_h264_is_refused(self) -> None:
        error = self.assertRaises(ServiceError, self.compress, HDR10, hdr="keep")
        self.assertEqual(error.code, 422)
        self.assertIn("hevc or av1", error.description)


def with_hdr10_plus(source: Path, folder: Path) -> Path:
    """Return a copy of an HEVC film with a minimal HDR10+ message (ST 2094-40) in each frame."""
    raw = folder / "plain.hevc"
    media.ffmpeg("-i", source, "-c", "copy", "-bsf:v", "hevc_mp4toannexb", raw)
    fields = [(1, 2), (400, 27), (0, 1), (10000, 17), (9000, 17), (8000, 17), (4000, 17)]
    fields += [(0, 4), (0, 10), (0, 1), (0, 1), (0, 1)]
    bits = "".join(f"{value:0{width}b}" for value, width in fields)
    bits += "0" * (-len(bits) % 8)
    content = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    message = b"\xb5\x00\x3c\x00\x01\x04\x01" + content
    unit = b"\x00\x00\x01\x4e\x01" + bytes([4, len(message)])
    escaped = message.replace(b"\x00\x00", b"\x00\x00\x03")
    unit += escaped + b"\x80"
    data = raw.read_bytes()
    out, at = bytearray(), 0
    while (start := data.find(b"\x00\x00\x01", at)) >= 0:
        kind, first = data[start + 3] >> 1 & 0x3F, data[start + 5] & 0x80
        out += data[at:start]
        if kind < 32 and first:
            out += unit
        out += data[start : start + 3]
        at = start + 3
    out += data[at:]
    changed, path = folder / "plus.hevc", folder / "plus.mp4"
    changed.write_bytes(out)
    media.ffmpeg("-r", "30000/1001", "-i", changed, "-c", "copy", "-tag:v", "hvc1", path)
    return path


class ParameterTests(TestCase):
    video = VideoStream(
        index=0,
        codec="hevc",
        width=640,
        height=360,
        bit_depth=10,
        color_transfer="smpte2084",
        mastering_display=MasteringDisplay(
            red=(0.68, 0.32),
            green=(0.265, 0.69),
            blue=(0.15, 0.06),
            white=(0.3127, 0.329),
            least=0.0001,
            most=4000,
        ),
        content_light=(1000, 0),
    )

    def test_units(self) -> None:
        """Each encoder has its own."""
        self.assertEqual(
            hdr_parameters("libx265", self.video)["x265-params"],
            "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)"
            "L(40000000,1):max-cll=1000,0",
        )
        self.assertEqual(
            hdr_parameters("libsvtav1", self.video)["svtav1-params"],
            "mastering-display=G(0.265000,0.690000)B(0.150000,0.060000)R(0.680000,0.320000)"
            "WP(0.312700,0.329000)L(4000.0000,0.000100):content-light=1000,0",
        )

    def test_parameters_of_one_encoder_are_put_together(self) -> None:
        """A fraction of a CRF or a pass must not displace them."""
        self.assertEqual(
            joined_parameters({"g": 1, "x265-params": "a=1"}, {"x265-params": "b=2", "g": 2}),
            {"g": 2, "x265-params": "a=1:b=2"},
        )
        capabilities = local_runner().capabilities
        encoder = video_encoder_for("av1", "fast", capabilities, self.video, keep_hdr=True)
        options = encoder.output_options(encoder.rate(30.25))
        self.assertIn("mastering-display=", options["svtav1-params"])
        self.assertIn(":crf=30.25", options["svtav1-params"])
        self.assertEqual(options["pix_fmt"], "yuv420p10le")
