// Every text of the page, in one table. To translate the page, translate this file: words in braces
// stay as they are; an object has a text for each plural category of the language (Intl.PluralRules).
// What the server says of tasks and parameters comes from it as it is.

export const LANGUAGE = "en";

const TEXTS = {
  "drop.title": "Drop films here",
  "drop.or": "or",
  "drop.choose": "choose files",
  "drop.more": "Add more films",
  "drop.note": "Any video format, up to {size} a film. Films stay on this server.",
  "drop.overlay": "Drop to add",
  "drop.label": "Films to process",

  "staged.title": { one: "{count} film, {size}", other: "{count} films, {size}" },
  "staged.remove": "Remove {name} from the selection",
  "staged.empty": "{name} is empty. Choose another file.",
  "staged.large": "{name} is larger than the server accepts ({size}). Compress or cut it first.",
  "staged.twice": "{name} is selected already.",

  "operation.legend": "What to do",
  "operation.compress": "Compress",
  "operation.compress.says": "Smaller, looks the same",
  "operation.resolution": "Resize",
  "operation.resolution.says": "A new frame size",
  "operation.aspect_ratio": "Reshape",
  "operation.aspect_ratio.says": "A new aspect ratio",
  "operation.extract_audio": "Extract audio",
  "operation.extract_audio.says": "An MP3 of the sound",
  "operation.gif": "Make a GIF",
  "operation.gif.says": "From a short clip",
  "operation.webm": "Make a WebM",
  "operation.webm.says": "From a clip, for the web",

  "start.compress": { one: "Compress {count} film", other: "Compress {count} films" },
  "start.resolution": { one: "Resize {count} film", other: "Resize {count} films" },
  "start.aspect_ratio": { one: "Reshape {count} film", other: "Reshape {count} films" },
  "start.extract_audio": { one: "Extract the audio", other: "Extract audio from {count} films" },
  "start.gif": { one: "Make the GIF", other: "Make {count} GIFs" },
  "start.webm": { one: "Make the WebM", other: "Make {count} WebMs" },
  "start.other": { one: "Process {count} film", other: "Process {count} films" },
  "start.none": "Add a film to start.",

  "settings.more": "More options",
  "settings.unset": "Automatic",
  "settings.optional": "optional",
  "settings.range": "{least} to {most} {unit}",
  "settings.from": "at least {least} {unit}",
  "settings.missing": "Fill this in.",
  "settings.number": "Enter a number.",
  "settings.whole": "Enter a whole number.",
  "settings.outside": "Enter a value from {least} to {most}.",
  "settings.time": "Enter seconds or HH:MM:SS, such as 12.5 or 00:01:30.",
  "settings.pattern": "This value is not valid. {description}",

  "field.quality": "Quality",
  "field.codec": "Codec",
  "field.plays": "Playable codecs",
  "field.target_size": "Maximum size",
  "field.max_size": "Maximum size",
  "field.preset": "Preset",
  "field.width": "Width",
  "field.height": "Height",
  "field.fit": "Fit",
  "field.aspect_ratio": "Aspect ratio",
  "field.bitrate": "Bit rate",
  "field.track": "Audio track",
  "field.start_time": "Start",
  "field.duration": "Length",
  "field.fps": "Frame rate",
  "field.hdr": "HDR",
  "field.audio_tracks": "Audio tracks",
  "field.grain": "Film grain",

  "choice.h264": "H.264, plays everywhere",
  "choice.hevc": "HEVC, smaller",
  "choice.av1": "AV1, smallest",
  "choice.vp9": "VP9",
  "choice.auto": "Automatic",
  "choice.fast": "Fast",
  "choice.balanced": "Balanced",
  "choice.small": "Small",
  "choice.pad": "Pad with bars",
  "choice.crop": "Crop",
  "choice.stretch": "Stretch",

  "unit.bytes": "MB",
  "unit.bit/s": "kbit/s",
  "unit.frames/s": "fps",

  "films.title": "Your films",
  "films.count": { one: "{count} in progress", other: "{count} in progress" },
  "films.clear": "Clear finished",
  "films.cleared": "The finished films are off the list.",

  "phase.waiting": "Waiting for its turn",
  "phase.elsewhere": "Another tab of this page sends this film.",
  "phase.lost": "Not wholly sent: {sent} of {size}. Choose the file again to go on from there.",
  "phase.unsent": "Not sent yet. Choose the file again.",
  "phase.unreadable": "The file has changed or can't be read. Choose it again.",
  "phase.uploading": "Uploading",
  "phase.accepting": "Checking the upload",
  "phase.queued": "Queued",
  "phase.position": "Queued, number {position}",
  "phase.processing": "Processing",
  "phase.completed": "Done",
  "phase.failed": "Failed",
  "phase.refused": "Not accepted",
  "phase.cancelled": "Cancelled",
  "phase.expired": "The result has expired",
  "phase.gone": "The server no longer has this task",
  "phase.gone.says": "Its time may be over, or somebody has deleted it. Send the film again if you need it.",
  "phase.expired.says": "The server keeps results for a limited time. Send the film again if you need it.",

  "stage.starting": "Starting",
  "stage.probing": "Reading the film",
  "stage.preparing": "Preparing",
  "stage.searching": "Finding the best setting",
  "stage.scoring": "Measuring quality",
  "stage.analysing": "Analysing",
  "stage.palette": "Choosing colours",
  "stage.encoding": "Encoding",
  "stage.joining": "Joining",
  "stage.copying": "Copying",
  "stage.finishing": "Finishing",
  "stage.verifying": "Checking the result",

  "wait.slot": "Another film from this address is in progress. This one follows.",
  "wait.server": "The server has no room at the moment. Trying again in {seconds} s.",
  "wait.network": "No connection. Trying again in {seconds} s.",
  "wait.token": "Waiting for a token.",

  "meter.upload": "Upload of {name}",
  "meter.processing": "Processing of {name}",
  "figure.of": "{done} of {size}",
  "figure.rate": "{size}/s",
  "figure.speed": "{factor}× speed",
  "figure.left": "{time} left",
  "figure.percent": "{percent} %",
  "figure.smaller": "{percent} % smaller",
  "figure.larger": "{percent} % larger",
  "figure.same": "same size",
  "figure.from": "from {size}",

  "action.download": "Download",
  "action.download.of": "Download the result of {name}",
  "action.preview": "Preview",
  "action.preview.of": "Preview the result of {name}",
  "action.compare": "Compare",
  "action.compare.of": "Compare {name} with its result",
  "action.close": "Close",
  "action.cancel": "Cancel",
  "action.cancel.of": "Cancel {name}",
  "action.remove": "Remove",
  "action.remove.of": "Remove {name}",
  "action.delete": "Delete the result?",
  "action.delete.of": "Delete the result of {name} from the server",
  "action.choose": "Choose the file",
  "action.choose.of": "Choose the file of {name} again",
  "action.retry": "Try again",
  "action.retry.of": "Try {name} again",

  "choose.other": "That is another file: {name} has {size}. Choose the same file again.",

  "preview.loading": "Loading the preview",
  "preview.not": "This browser can't play this result. Download it to watch it.",
  "preview.source.not": "This browser can't play the source, so there is nothing to compare. The result is below.",
  "preview.source.gone": "To compare, the page needs the source: it is no longer open after a reload.",
  "preview.differs": "The result has another shape than the source, so there is nothing to compare.",
  "preview.large": "This result is too large for a preview. Download it to see it.",
  "preview.gif": "The GIF made from {name}",
  "preview.video": "The result of {name}",
  "preview.audio": "The audio of {name}",
  "preview.choose": "Choose the source",

  "compare.label": "Comparison of {name} with its result",
  "compare.split": "Divider between source and result",
  "compare.split.value": "{percent} % source",
  "compare.before": "Before",
  "compare.after": "After",
  "compare.play": "Play",
  "compare.pause": "Pause",
  "compare.mute": "Mute",
  "compare.unmute": "Unmute",
  "compare.seek": "Position",

  "panel.button": "Server",
  "panel.title": "Server",
  "panel.note": "The last ten minutes. Up for {time}.",
  "panel.queued": "Waiting tasks",
  "panel.running": "Running tasks",
  "panel.running.of": "{running} of {most}",
  "panel.cpu": "CPU for video",
  "panel.cpu.reserve": "reserve {percent} %",
  "panel.packets": "Packets in",
  "panel.packets.value": "{count}/s",
  "panel.uploads": "Uploads in",
  "panel.disk": "Disk",
  "panel.disk.of": "of {size}",
  "panel.peak": "peak {value}",
  "panel.empty": "The first figures come within ten seconds.",
  "panel.failed": "The figures can't be read at the moment.",

  "token.title": "This server asks for a token",
  "token.why": "The person who runs it gives you one. It is kept until you close this tab.",
  "token.label": "Token",
  "token.use": "Use it",
  "token.wrong": "The server doesn't know this token. Check it, or ask whoever runs the server.",

  "connection.lost": "Connection lost. Reconnecting…",
  "connection.unreachable": "The server can't be reached. Trying again…",

  "problem.network": "The server can't be reached.",
  "problem.network.solution": "Check the connection, then try again.",
  "problem.unknown": "The server answered with status {status}.",
  "problem.unknown.solution": "Try again in a moment.",
  "problem.storage": "This browser does not let the page remember its films: a reload forgets them.",
  "problem.folder": "There were no files in what you dropped.",

  "says.added": { one: "{count} film added.", other: "{count} films added." },
  "says.sending": "Uploading {name}.",
  "says.accepted": "{name} is uploaded.",
  "says.completed": "{name} is done.",
  "says.failed": "{name} failed. {error}",
  "says.cancelled": "{name} is cancelled.",

  "warnings": { one: "{count} warning", other: "{count} warnings" },
  "footer.api": "API",
  "footer.version": "vidproc {version}",
};

const plurals = new Intl.PluralRules(LANGUAGE);

export function has(key) {
  return Object.hasOwn(TEXTS, key);
}

/** Return a text; `values` fill its words in braces, and `values.count` chooses the plural. */
export function text(key, values = {}) {
  const found = TEXTS[key];
  const template =
    typeof found === "object" ? (found[plurals.select(values.plural ?? 0)] ?? found.other) : found;
  if (template === undefined) throw new Error(`there is no text ${key}`);
  return template.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

/** Return a text, or `other` if the table has none: for names that the server gives. */
export function textOr(key, other) {
  return has(key) ? text(key) : other;
}
