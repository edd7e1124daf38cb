// What the form has before anything is typed, where the server has no default; and which of the
// optional fields stand in front.

export const SUGGESTED = {
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
