/**
 * The colour scheme: the system's, unless the reader chose another. It runs before the first paint (a classic script in the head),
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
      // The browser may forbid storage. Then the system's colour scheme is used.
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
        // Then the choice is valid for this page only.
      }
    });
  });
})();
