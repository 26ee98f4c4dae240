//! The environment of programs: the variables that every program needs, and those of the settings. The node's own
//! environment may hold secrets, so no other variable is passed on.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io,
    path::PathBuf,
};

use rustix::fs::{Access, access};

/// Variables that every program gets.
const ALWAYS: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];

/// Search path for programs if there is no `PATH`.
const NO_PATH: &str = "/bin:/usr/bin";

/// Prefix of the node's own variables, in any case.
const OWN_PREFIX: &str = "MILLSTREAM_";

/// The environment of a program.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Variables with their values.
    pub set: BTreeMap<String, String>,
    /// Variables that are taken from the node's environment.
    pub pass: Vec<String>,
}

// === impl Environment ===

impl Environment {
    /// Checks the names.
    ///
    /// # Errors
    /// Names the key and the variable.
    pub fn check(&self) -> Result<(), String> {
        let keys = self.set.keys().map(|name| ("env", name)).chain(self.pass.iter().map(|name| ("pass_env", name)));
        for (key, name) in keys {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(format!("`{key}`: `{name}` is not the name of an environment variable"));
            }
            if name.get(..OWN_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(OWN_PREFIX)) {
                return Err(format!(
                    "`{key}`: `{name}` is the node's own; name variables that do not begin with `{OWN_PREFIX}`"
                ));
            }
        }
        match self.set.iter().find(|(_, value)| value.contains('\0')) {
            Some((name, _)) => Err(format!("`env`: the value of `{name}` contains a null character")),
            None => Ok(()),
        }
    }

    /// All variables of a program.
    pub fn variables(&self) -> BTreeMap<OsString, OsString> {
        let passed = ALWAYS.into_iter().chain(self.pass.iter().map(String::as_str));
        let passed = passed.filter_map(|name| Some((name.into(), std::env::var_os(name)?)));
        let set = self.set.iter().map(|(name, value)| (name.into(), value.into()));
        passed.chain(set).collect()
    }
}

/// Finds a program as a shell does. The search is here, so that the child does not search `PATH` between `fork` and
/// `exec`.
///
/// # Errors
/// If no directory of `path` has such a program. A name with a slash is used unchanged.
pub(super) fn find(program: &str, path: Option<&OsStr>) -> io::Result<PathBuf> {
    if program.contains('/') {
        return Ok(program.into());
    }
    let path = path.unwrap_or_else(|| OsStr::new(NO_PATH));
    let mut candidates = std::env::split_paths(path).map(|directory| {
        // An empty entry is the working directory.
        if directory.as_os_str().is_empty() { PathBuf::from(".").join(program) } else { directory.join(program) }
    });
    candidates
        .find(|file| file.is_file() && access(file, Access::EXEC_OK).is_ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn environment(set: &[(&str, &str)], pass: &[&str]) -> Environment {
        let set = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Environment { set, pass: pass.iter().map(ToString::to_string).collect() }
    }

    /// A variable of this process that is not passed on by default.
    pub(crate) fn other() -> (String, String) {
        let plain = |(name, value): &(String, String)| {
            !ALWAYS.contains(&name.as_str()) && !name.starts_with(OWN_PREFIX) && name != "_" && !value.contains('\n')
        };
        std::env::vars().find(plain).expect("each process has some variable")
    }

    #[test]
    fn a_program_gets_only_the_usual_and_the_named_variables() {
        let passed = other().0;
        let variables = environment(&[("GREETING", "hello"), ("LANG", "C.UTF-8")], &[&passed, "NO_SUCH_VARIABLE"]);
        let variables = variables.variables();
        let value = |name: &str| variables.get(OsStr::new(name)).and_then(|value| value.to_str());
        assert_eq!(value("GREETING"), Some("hello"));
        assert_eq!(value("LANG"), Some("C.UTF-8"), "a set variable takes precedence over a passed one");
        assert_eq!(value(&passed), std::env::var(&passed).ok().as_deref());
        assert_eq!(value("PATH"), std::env::var("PATH").ok().as_deref());
        let known = ["GREETING", &passed].into_iter().chain(ALWAYS).collect::<Vec<_>>();
        assert!(variables.keys().all(|name| known.iter().any(|known| name == known)), "{variables:?}");
    }

    #[test]
    fn names_of_the_node_and_invalid_names_are_rejected() {
        for name in ["MILLSTREAM_TOKEN", "MILLSTREAM__ACCESS__TOKENS", "millstream_url", "", "A=B"] {
            assert!(environment(&[], &[name]).check().is_err_and(|error| error.contains("`pass_env`")), "{name}");
            assert!(environment(&[(name, "")], &[]).check().is_err_and(|error| error.contains("`env`")), "{name}");
        }
        assert_eq!(environment(&[("MÖLLSTREAM_", "x")], &["TOKEN", "MILLSTREA"]).check(), Ok(()));
    }

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        let path = Some(OsStr::new("/no/such/directory:/bin:/usr/bin"));
        assert!(find("sh", path).is_ok_and(|file| file.ends_with("bin/sh")));
        assert!(find("sh", None).is_ok());
        assert_eq!(find("./sh", path).expect("it has a slash"), PathBuf::from("./sh"));
        assert_eq!(
            find("millstream-no-such-program", path).map_err(|error| error.kind()),
            Err(io::ErrorKind::NotFound)
        );
    }
}
