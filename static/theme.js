/**
 * The colour scheme: the system's, unless the reader chose one. Runs before the first paint (a classic script in the head),
 * so that a dark page does not flash white.
 */
(() => {
  const KEY = "millstream-theme";
  const CHOICES = ["auto", "light", "dark"];

  const read = () => {
    try {
      const stored = localStorage.getItem(KEY);
      return CHOICES.includes(stored) ? stored : "auto";
    } catch {
      // Storage may be forbidden; the system's choice is a good one.
      return "auto";
    }
  };

  const apply = (choice) => {
    document.documentElement.dataset.theme = choice;
    const select = document.getElementById("theme");
    if (select) select.value = choice;
  };

  apply(read());
  document.addEventListener("DOMContentLoaded", () => {
    apply(read());
    document.getElementById("theme")?.addEventListener("change", (change) => {
      apply(change.target.value);
      try {
        localStorage.setItem(KEY, change.target.value);
      } catch {
        // Then it holds for this page alone.
      }
    });
  });
})();
