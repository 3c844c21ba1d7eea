// Words that one of two texts has and the other lacks, in order.
// differing("Oil is heavy.", "Oil is light.") is [["Oil", true], ["is", true], ["heavy.", false]]
const differing = (() => {
  const LONGEST = 600; // words: the table of two texts of this length is small

  return (text, other) => {
    const [x, y] = [text, other].map((t) => t.split(/\s+/).filter(Boolean).slice(0, LONGEST));
    // common[i][j]: length of the longest common subsequence of x[i..] and y[j..]
    const common = Array.from({ length: x.length + 1 }, () => new Uint16Array(y.length + 1));
    for (let i = x.length - 1; i >= 0; i--) {
      for (let j = y.length - 1; j >= 0; j--) {
        common[i][j] = x[i] === y[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
      }
    }
    const parts = [];
    let j = 0;
    for (let i = 0; i < x.length; i++) {
      while (j < y.length && x[i] !== y[j] && common[i][j + 1] > common[i + 1][j]) j++;
      const shared = j < y.length && x[i] === y[j] && common[i][j] === common[i + 1][j + 1] + 1;
      parts.push([x[i], shared]);
      if (shared) j++;
    }
    return parts;
  };
})();
