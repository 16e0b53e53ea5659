// Whole numbers of bytes and elements: exact below 2^53, which is far above the largest model that is let in.

// What a reader's input cannot mean, told in one sentence.
class Refusal extends Error {}

function sum(numbers) {
  let total = 0;
  for (const number of numbers) total += number;
  return total;
}

// Python's round: halves go to the even number.
function rounded(number) {
  const below = Math.floor(number);
  if (number - below !== 0.5) return Math.round(number);
  return below % 2 === 0 ? below : below + 1;
}

// The largest whole number from 0 to `most` for which `holds`, which is monotone: true, then false. Small ones are asked
// first, because large models take longer.
function lastThatHolds(holds, most) {
  let [low, high] = [0, 1];
  while (high <= most && holds(high)) [low, high] = [high, 2 * high];
  high = Math.min(high - 1, most);
  while (low < high) {
    const middle = Math.floor((low + high + 1) / 2);
    if (holds(middle)) low = middle;
    else high = middle - 1;
  }
  return low;
}

const memory = new WeakMap();

// What `make` returns, made once for an object and a key: one choice asks for the same model at many strategies.
function remembered(owner, key, make) {
  if (!memory.has(owner)) memory.set(owner, new Map());
  const made = memory.get(owner);
  if (!made.has(key)) made.set(key, make());
  return made.get(key);
}
