// Copies text to the clipboard.

const SHOWN_MS = 2000; // how long a button says that it has copied

/** Return a button that copies what `text` returns; `name` says of what it is the copy. */
export function copyButton(name, text) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.ariaLabel = `Copy ${name}`;
  button.addEventListener("click", async () => {
    const copied = await copy(text());
    button.textContent = copied ? "Copied" : "Not allowed";
    button.ariaLabel = button.textContent; // read out, because the button has the focus
    setTimeout(() => {
      button.textContent = "Copy";
      button.ariaLabel = `Copy ${name}`;
    }, SHOWN_MS);
  });
  return button;
}

/** Return whether the text is in the clipboard now. */
async function copy(text) {
  // A page that came over HTTP from another machine has no clipboard of its own.
  if (!navigator.clipboard) return copySelected(text);
  return navigator.clipboard.writeText(text).then(
    () => true,
    () => false, // the user or the browser forbids it
  );
}

function copySelected(text) {
  const held = document.activeElement;
  const area = document.createElement("textarea");
  area.className = "unseen";
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  held?.focus();
  return copied;
}
