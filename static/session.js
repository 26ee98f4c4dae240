/** The token that the pages share, kept for this tab until it closes. */

const KEY = "millstream-token";

/** The token that was entered last on any page of this tab; empty where there is none or the browser keeps nothing. */
export function storedToken() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

/** Keeps the token for the other pages of this tab and for a reload. */
export function storeToken(token) {
  try {
    if (token === "") sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, token);
  } catch {
    // The browser keeps nothing: the field alone has it.
  }
}
