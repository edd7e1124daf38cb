// What the form has before anything is typed, where the server has no default; and which of the
// optional fields stand in front.

const TYPES = { h264: "avc1.640028", hevc: "hvc1.1.6.L93.B0", av1: "av01.0.05M.08" };

/** The codecs that this browser plays. */
function playable() {
  const video = document.createElement("video");
  return Object.keys(TYPES).filter((codec) => video.canPlayType(`video/mp4; codecs="${TYPES[codec]}"`));
}

export const SUGGESTED = {
  compress: { plays: playable() },
  resolution: { width: 1280, height: 720 },
  aspect_ratio: { aspect_ratio: "16:9" },
  gif: { start_time: 0, duration: 5 },
  webm: { start_time: 0, duration: 5 },
};

export const FIRST = {
  compress: ["quality", "target_size"],
  resolution: ["fit"],
  aspect_ratio: ["fit"],
  extract_audio: ["bitrate"],
  gif: ["width"],
  webm: ["width"],
};

/** Fields that count, and are shown, only while another field has a value. */
export const ONLY_WITH = {
  plays: ["codec", "auto"],
  grain: ["codec", "av1"],
};
