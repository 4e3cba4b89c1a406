// Reads server-sent events from a response, which EventSource cannot with a header of ours.

/**
 * Yield the data of each event, with the time at which it was read (milliseconds of
 * `performance.now`). A broken connection is thrown as `translate` returns it.
 */
export async function* events(body, translate = (error) => error) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      throw translate(error);
    });
    if (done) return;
    const at = performance.now();
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ")) yield { data: line.slice(6).trimEnd(), at };
    }
  }
}
