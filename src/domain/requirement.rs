//! One requirement of a job type, in the part of PEP 508 that names a package of an index.

use std::fmt;

/// Longest requirement, bytes.
const LONGEST: usize = 512;

const OPERATORS: [&str; 8] = ["===", "==", "~=", "!=", "<=", ">=", "<", ">"];

/// What a marker may ask for (PEP 508).
const VARIABLES: [&str; 11] = [
    "os_name",
    "sys_platform",
    "platform_machine",
    "platform_python_implementation",
    "platform_release",
    "platform_system",
    "platform_version",
    "python_version",
    "python_full_version",
    "implementation_name",
    "implementation_version",
];

/// A requirement that was read: nothing in it can speak to pip or to a shell.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Requirement(String);

/// The text is not a requirement; says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{shown:?} {reason}")]
pub struct NotARequirement {
    shown: String,
    reason: String,
}

impl Requirement {
    /// Reads `name[extra] >=1,<2 ; marker`.
    ///
    /// # Errors
    /// [`NotARequirement`] for options, URLs, paths, and whatever else is no name with versions.
    pub fn parse(text: &str) -> Result<Self, NotARequirement> {
        match fault(text) {
            None => Ok(Self(text.trim().to_owned())),
            Some(reason) => Err(NotARequirement { shown: text.chars().take(100).collect(), reason }),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is wrong with the text, with what to write instead; nothing when it is a requirement.
fn fault(text: &str) -> Option<String> {
    if text.len() > LONGEST {
        return Some(format!("is longer than {LONGEST} bytes"));
    }
    if let Some(character) = text.chars().find(|c| !matches!(c, ' '..='~')) {
        return Some(format!("contains {character:?}: write printable ASCII on one line"));
    }
    let text = text.trim();
    if text.starts_with('-') {
        return Some("is an option of pip: name packages alone, options are settings of build".to_owned());
    }
    let (specification, marker) = match text.split_once(';') {
        Some((specification, marker)) => (specification.trim_end(), Some(marker.trim())),
        None => (text, None),
    };
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let end = specification.find(|c| !is_part(c)).unwrap_or(specification.len());
    let (name, rest) = specification.split_at(end);
    if !is_name(name) {
        return Some("does not name a package: begin with its name, like numpy==2.2.6".to_owned());
    }
    if rest.contains('@') || rest.contains('/') || rest.contains('\\') {
        return Some(
            "refers to a place: packages come from the index, or as wheels from build.wheel_dir, by name and version"
                .to_owned(),
        );
    }
    let mut rest = rest.trim_start();
    if let Some(after) = rest.strip_prefix('[') {
        let Some((extras, after)) = after.split_once(']') else { return Some("has a [ without its ]".to_owned()) };
        if !extras.split(',').all(|extra| is_name(extra.trim())) {
            return Some("has extras that are none: write them like httpx[http2]".to_owned());
        }
        rest = after.trim_start();
    }
    if !rest.is_empty() && !rest.split(',').all(|clause| is_clause(clause.trim())) {
        return Some("has versions that are none: write them like numpy>=2,<3".to_owned());
    }
    if marker.is_some_and(|marker| !is_marker(marker)) {
        return Some("has a marker that is none: write it like ; python_version < \"3.12\"".to_owned());
    }
    None
}

/// A package's or an extra's name (PEP 508).
fn is_name(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 128
        && ends(text.chars().next())
        && ends(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// An operator with a version (PEP 440), which may end in `.*`.
fn is_clause(clause: &str) -> bool {
    let Some(version) = OPERATORS.iter().find_map(|operator| clause.strip_prefix(operator)) else { return false };
    let version = version.trim();
    let version = version.strip_suffix(".*").unwrap_or(version);
    version.starts_with(|c: char| c.is_ascii_digit() || c == 'v')
        && version.len() <= 128
        && version.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '!' | '-' | '_'))
}

/// Whether a marker is made of nothing but variables, quoted text, operators and parentheses.
/// Whether it also means something, pip says.
fn is_marker(marker: &str) -> bool {
    let mut rest = marker;
    let mut is_empty = true;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return !is_empty;
        }
        is_empty = false;
        if let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) {
            let Some((text, after)) = rest[1..].split_once(quote) else { return false };
            if !text.chars().all(|c| c.is_ascii_alphanumeric() || " .-_+!*".contains(c)) {
                return false;
            }
            rest = after;
        } else if let Some(after) = OPERATORS.iter().find_map(|operator| rest.strip_prefix(operator)) {
            rest = after;
        } else if let Some(after) = rest.strip_prefix(['(', ')']) {
            rest = after;
        } else {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            if !VARIABLES.contains(&word) && !["and", "or", "in", "not", "extra"].contains(&word) {
                return false;
            }
            rest = after;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_extras_versions_and_markers_are_requirements() {
        for text in [
            "numpy",
            "numpy==2.2.6",
            " scikit-learn >=1.6, <2 ",
            "httpx[http2]==0.28.*",
            "httpx [http2, socks] ~=0.28",
            "torch==2.6.0+cpu",
            "zope.interface!=5.0,>=4",
            "typing_extensions; python_version < \"3.12\" and (os_name == 'posix' or extra == 'x')",
            "a===1!2.0.post1.dev3",
        ] {
            assert_eq!(Requirement::parse(text).map(|read| read.0), Ok(text.trim().to_owned()));
        }
    }

    #[test]
    fn what_could_speak_to_pip_or_to_a_shell_is_refused_with_what_to_write() {
        for (text, hint) in [
            ("", "begin with its name"),
            ("--index-url=http://evil", "option of pip"),
            ("-r /etc/passwd", "option of pip"),
            ("-e .", "option of pip"),
            ("numpy --hash=sha256:00", "like numpy>=2,<3"),
            ("numpy==2.2.6 --pre", "like numpy>=2,<3"),
            ("numpy\nRUN evil", "on one line"),
            ("numpy\r-r x", "on one line"),
            ("numpy\0", "on one line"),
            ("numpy\u{202e}", "printable ASCII"),
            ("numpy==$(id)", "like numpy>=2,<3"),
            ("numpy==1;$(id)", "has a marker"),
            ("numpy==1; os_name == '`id`'", "has a marker"),
            ("numpy; import os", "has a marker"),
            ("numpy;", "has a marker"),
            ("numpy|id", "like numpy>=2,<3"),
            ("numpy && id", "like numpy>=2,<3"),
            ("numpy #comment", "like numpy>=2,<3"),
            ("numpy==${PIP_INDEX_URL}", "like numpy>=2,<3"),
            ("evil @ https://example.org/evil.whl", "refers to a place"),
            ("evil @ file:///etc/passwd", "refers to a place"),
            ("git+https://example.org/evil", "refers to a place"),
            ("./evil", "begin with its name"),
            ("../evil", "begin with its name"),
            ("/etc/passwd", "begin with its name"),
            ("evil/evil.whl", "refers to a place"),
            ("numpy[", "without its ]"),
            ("numpy[--pre]", "extras that are none"),
            ("numpy==", "like numpy>=2,<3"),
            ("numpy==-1", "like numpy>=2,<3"),
        ] {
            let refused = Requirement::parse(text).expect_err(text).to_string();
            assert!(refused.contains(hint), "{text:?}: {refused}");
        }
        assert!(Requirement::parse(&"a".repeat(600)).is_err());
    }
}
