// Others' words as they are: what a reader would not see, or what would move about what they see, is written out.

const C0 = /[\u0000-\u0008\u000b-\u001f\u007f]/g;
const HIDDEN = /[\u0080-\u009f\u00ad\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\ufff9-\ufffb]|\udb40[\udc00-\udfff]/g;
const COLOURS = /\u001b\[[0-9;]*m/g;

/** A text with its control characters as pictures, and what is hidden or turns writing around as its number. */
export function plainly(text) {
  return String(text).replaceAll("\r\n", "\n").replace(C0, pictured).replace(HIDDEN, numbered);
}

/** What a program printed: the same, without the colours of terminals, each return as a new line. */
export function printed(text) {
  return plainly(text.replace(COLOURS, "").replaceAll("\r\n", "\n").replaceAll("\r", "\n"));
}

function pictured(character) {
  const code = character.charCodeAt(0);
  return String.fromCharCode(code === 0x7f ? 0x2421 : 0x2400 + code);
}

function numbered(characters) {
  return `⟨U+${characters.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
}
