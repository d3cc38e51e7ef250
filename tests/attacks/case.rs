//! One attack: its program, its limits, the verdict it must get, and the proof.

use std::fmt;
use std::time::Duration;

use tako_guest::protocol::{Refusal, Report};
use tako_vm::domain::{Ending, ErrorType, Status};
use tako_vm::engine::{Job, Run, SandboxLimits};

use super::arena::Place;

/// An attack and what must come of it.
pub struct Case {
    /// `group/name`, which is also where the program lies.
    pub name: &'static str,
    /// The program; the first line of its docstring says what it tries.
    pub code: &'static str,
    pub tune: fn(&mut SandboxLimits, &mut Job),
    pub expected: Expected,
    /// Engines on which something else must come of it, by design.
    pub elsewhere: Vec<Elsewhere>,
}

/// What must come of a case.
#[derive(Clone, Copy)]
pub struct Expected {
    pub verdict: Verdict,
    /// Panics when the attack got further than it may.
    pub proof: fn(&Seen),
}

pub struct Elsewhere {
    pub place: Place,
    pub expected: Expected,
    /// Why this is by design, as a sentence for the docs.
    pub why: &'static str,
}

/// The status of the execution and, when it failed, the type of the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Succeeded,
    Failed(ErrorType),
    TimedOut,
    OutOfMemory,
    /// No job may end so.
    Cancelled,
}

impl Verdict {
    pub fn of(ending: &Ending) -> Self {
        match ending {
            Ending::Succeeded { .. } => Self::Succeeded,
            Ending::Failed { error, .. } => Self::Failed(error.error_type),
            Ending::TimedOut { .. } => Self::TimedOut,
            Ending::OutOfMemory { .. } => Self::OutOfMemory,
            Ending::Cancelled { .. } => Self::Cancelled,
        }
    }
}

/// As a record says it: `timeout`, `failed: killed`.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = match self {
            Self::Succeeded => Status::Succeeded,
            Self::Failed(error) => return write!(f, "failed: {}", error.as_str()),
            Self::TimedOut => Status::Timeout,
            Self::OutOfMemory => Status::Oom,
            Self::Cancelled => Status::Cancelled,
        };
        f.write_str(status.as_str())
    }
}

impl Case {
    /// A case that must succeed, until it is told otherwise.
    pub fn new(name: &'static str, code: &'static str) -> Self {
        let expected = Expected { verdict: Verdict::Succeeded, proof: |_| panic!("this case has no proof") };
        Self { name, code, tune: |_, _| (), expected, elsewhere: Vec::new() }
    }

    /// Changes limits of the sandbox and of the job.
    pub fn tune(mut self, tune: fn(&mut SandboxLimits, &mut Job)) -> Self {
        self.tune = tune;
        self
    }

    /// Gives it a second, for attacks that end only by the limit.
    pub fn for_a_second(self) -> Self {
        self.tune(|_, job| job.execution_timeout = Duration::from_secs(1))
    }

    pub fn must(mut self, verdict: Verdict, proof: fn(&Seen)) -> Self {
        self.expected = Expected { verdict, proof };
        self
    }

    /// Something else must come of it on this engine, for this reason.
    pub fn but_at(mut self, place: Place, verdict: Verdict, proof: fn(&Seen), why: &'static str) -> Self {
        self.elsewhere.push(Elsewhere { place, expected: Expected { verdict, proof }, why });
        self
    }

    pub fn expected_at(&self, place: Place) -> Expected {
        self.elsewhere.iter().find(|other| other.place == place).map_or(self.expected, |other| other.expected)
    }

    /// The first line of the program's docstring.
    pub fn aim(&self) -> &'static str {
        let line = self.code.lines().next().unwrap_or_default();
        line.trim_start_matches("\"\"\"").trim_end_matches("\"\"\"").trim_end_matches('.')
    }
}

/// What was seen of a case, for its proof.
pub struct Seen {
    /// Absent when the sandbox went down with the attack.
    pub run: Option<Run>,
    pub limits: SandboxLimits,
    /// What the attack was told of the host.
    pub stage: super::stage::Told,
}

impl Seen {
    pub fn run(&self) -> &Run {
        self.run.as_ref().expect("the guest reported")
    }

    pub fn report(&self) -> &Report {
        &self.run().report
    }

    /// Standard output, which must be text.
    pub fn stdout(&self) -> &str {
        std::str::from_utf8(&self.run().stdout).expect("standard output is text")
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.run().stderr).into_owned()
    }

    /// The value of a line `name: value` of standard output.
    pub fn value(&self, name: &str) -> &str {
        let found = self.stdout().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        found.unwrap_or_else(|| panic!("no line {name:?} in {:?}, {}", self.stdout(), self.stderr()))
    }

    pub fn number(&self, name: &str) -> u64 {
        self.value(name).parse().expect("a number")
    }

    pub fn artifact_names(&self) -> Vec<&str> {
        self.run().artifacts.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Why an entry of `/output` was refused, if it was.
    pub fn refusal(&self, name: &str) -> Option<Refusal> {
        let refused = &self.report().refused_artifacts;
        refused.iter().find(|refused| refused.name == name).map(|refused| refused.reason)
    }

    /// Every attempt (see `cases/attempt.py`) was refused, and there were so many.
    ///
    /// An error that is about the arguments means that somebody looked at them, so that the
    /// attempt would have gone through with better ones.
    pub fn all_refused(&self, attempts: usize) {
        self.all_refused_but(&[], attempts);
    }

    /// The same, but some of them do not matter on this engine.
    pub fn all_refused_but(&self, harmless: &[&str], attempts: usize) {
        const LOOKED_AT: [&str; 4] = ["EINVAL", "EFAULT", "EBADF", "E2BIG"];
        let stdout = self.stdout();
        let mut count = 0;
        for line in stdout.lines() {
            let (what, came) = line.rsplit_once(": ").unwrap_or_else(|| panic!("not an attempt: {line:?}"));
            count += 1;
            if harmless.contains(&what) {
                continue;
            }
            assert!(came != "done", "{what} went through, of {stdout}");
            assert!(!LOOKED_AT.contains(&came), "{what} was looked at ({came}), of {stdout}");
        }
        assert_eq!(count, attempts, "attempts of {stdout}, {}", self.stderr());
    }
}

/// For cases whose verdict says it all.
pub fn verdict_only(_: &Seen) {}
