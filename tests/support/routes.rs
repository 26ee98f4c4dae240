//! The route table of the program, from its source.

use std::collections::BTreeSet;

/// Method in lower case and path, of every route but the pages.
pub(crate) fn route_table() -> BTreeSet<(String, String)> {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let beside = std::fs::read_dir(here.join("http")).expect("the routes' folder");
    let files = beside.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file());
    let sources: Vec<String> = std::iter::once(here.join("http.rs"))
        .chain(files)
        .map(|path| std::fs::read_to_string(path).expect("a source"))
        .collect();
    let mut routes = BTreeSet::new();
    for part in sources.iter().flat_map(|source| source.split("at(\"").skip(1)) {
        let (path, rest) = part.split_once('"').expect("the literal ends");
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
    assert!(routes.len() > 50, "the table has another form now: {routes:?}");
    routes
}
