//! The route table of the program, from its source.

use std::collections::BTreeSet;

/// Method in lower case and path, of every route but the pages.
pub fn route_table() -> BTreeSet<(String, String)> {
    let source = include_str!("../../src/http.rs");
    let mut routes = BTreeSet::new();
    for part in source.split("at(\"").skip(1) {
        let (path, rest) = part.split_once('"').expect("the literal ends");
        let rest = rest.split("at(\"").next().unwrap_or_default();
        for (call, method) in [
            ("web::get()", "get"),
            ("read()", "get"),
            ("web::post()", "post"),
            ("web::put()", "put"),
            ("web::patch()", "patch"),
            ("web::delete()", "delete"),
        ] {
            if rest.contains(&format!("{call}.to(")) {
                // The document has no expressions behind the names of a path's parts.
                routes.insert((method.to_owned(), path.replace(":.*}", "}")));
            }
        }
    }
    assert!(routes.len() > 30, "the table has another form now: {routes:?}");
    routes
}
