/** The token that the pages share. The tab keeps it until it closes. */

const KEY = "millstream-token";

/** The token that was entered last on any page of this tab. Empty if there is no token or the browser stores nothing. */
export function storedToken() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

/** Stores the token for the other pages of this tab and for a reload. */
export function storeToken(token) {
  try {
    if (token === "") sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, token);
  } catch {
    // The browser stores nothing: only the field has the token.
  }
}
