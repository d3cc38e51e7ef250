//! Places at which a debug build ends itself as `kill -9` would, so that tests can see what such an end
//! costs. A release build has none.
//!
//! `TAKO_VM_TEST_CRASH_AT=append:ExecutionStarted:after` ends the process once that event is durable and
//! nobody was told. [`names`] lists them all: before and after each kind of event is appended, each
//! call of the engine, and each other write to the database that a job depends on.

use std::sync::LazyLock;

use crate::domain::EventKind;

/// The variable that names the place.
pub const VARIABLE: &str = "TAKO_VM_TEST_CRASH_AT";

/// Calls of the engine and its sandboxes. `collect` is from the first artifact to the report.
pub const ENGINE: &[&str] = &[
    "resolve_image",
    "base",
    "build",
    "find_built",
    "built",
    "remove_built",
    "start",
    "run",
    "collect",
    "destroy",
    "health",
    "list",
    "remove",
    "shutdown",
];

/// Writes to the database beside appends.
pub const STORE: &[&str] = &["claim", "put_blobs", "seal"];

/// Kinds that no server appends: the first is never said today, the second by `audit archive`, in the
/// transaction that drops what was archived.
const NEVER_APPENDED: &[EventKind] = &[EventKind::JobRejected, EventKind::LogArchived];

/// On which side of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Before,
    After,
}

impl Moment {
    fn as_str(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// Every crash point: `append:<event>:before`, `engine:<call>:after`, `store:<write>:before`, ...
pub fn names() -> Vec<String> {
    let appended = EventKind::ALL.iter().filter(|kind| !NEVER_APPENDED.contains(kind));
    let steps = appended
        .map(|kind| format!("append:{}", kind.as_str()))
        .chain(ENGINE.iter().map(|call| format!("engine:{call}")))
        .chain(STORE.iter().map(|write| format!("store:{write}")));
    steps.flat_map(|step| [Moment::Before, Moment::After].map(|moment| format!("{step}:{}", moment.as_str()))).collect()
}

static ARMED: LazyLock<Option<String>> =
    LazyLock::new(|| std::env::var(VARIABLE).ok().filter(|name| cfg!(debug_assertions) && !name.is_empty()));

/// Whether this process is to end at some place.
pub fn is_armed() -> bool {
    cfg!(debug_assertions) && ARMED.is_some()
}

/// Checks that the place named in the environment is one.
///
/// # Errors
/// A sentence, for a name that no place has: it would never be reached.
pub fn check() -> Result<(), String> {
    match ARMED.as_ref() {
        Some(name) if !names().contains(name) => Err(format!("{VARIABLE}: there is no crash point {name:?}")),
        Some(_) | None => Ok(()),
    }
}

/// Ends the process, at once and with nothing cleaned up, if this is the place.
pub fn reach(group: &str, step: &str, moment: Moment) {
    if !is_armed() {
        return;
    }
    let name = format!("{group}:{step}:{}", moment.as_str());
    if ARMED.as_deref() == Some(name.as_str()) {
        eprintln!("crash point {name}: this process kills itself");
        // SAFETY: a signal to this process itself.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        // The signal ends every thread; this one must not go on until it does.
        loop {
            std::thread::park();
        }
    }
}

/// Does the work, with a crash point on each side of it.
pub async fn around<T>(group: &str, step: &str, work: impl Future<Output = T>) -> T {
    reach(group, step, Moment::Before);
    let done = work.await;
    reach(group, step, Moment::After);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_one_name() {
        let mut all = names();
        assert!(all.contains(&"append:JobSubmitted:before".to_owned()));
        assert!(all.contains(&"engine:run:after".to_owned()));
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
