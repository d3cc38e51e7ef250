//! What facts mean: the table of the REST contract.

use tako_guest::protocol::{End, Exception};

use super::story::observed;
use crate::domain::outcome::{Facts, classify};
use crate::domain::{Ending, ErrorType, Failure, Phase, Status};

fn facts(end: End) -> Facts {
    Facts {
        end,
        exception: None,
        execution_timeout_ms: 30_000,
        memory_limit_bytes: 512 << 20,
        observed: observed(match end {
            End::Exited { code } => Some(code),
            End::Signaled { .. } | End::TimedOut | End::Cancelled => None,
        }),
    }
}

fn exited(code: i32) -> Facts {
    facts(End::Exited { code })
}

fn signaled(signal: i32) -> Facts {
    facts(End::Signaled { signal })
}

/// The cgroup's OOM killer struck somewhere in the sandbox.
fn with_oom_kill(mut facts: Facts) -> Facts {
    facts.observed.usage.oom_killed = true;
    facts
}

/// Exit 1 by an exception of that class; its bases as `__mro__` has them, without `object`.
fn raised(class: &str, bases: &[&str]) -> Facts {
    let exception = Exception {
        class: class.to_owned(),
        bases: bases.iter().map(|base| (*base).to_owned()).collect(),
        message: "what happened".to_owned(),
    };
    Facts { exception: Some(exception), ..exited(1) }
}

fn failed(facts: Facts) -> Failure {
    match classify(facts) {
        Ending::Failed { error, observed: Some(_) } => error,
        other => panic!("not a failure with what was seen: {other:?}"),
    }
}

#[test]
fn an_exit_status_is_the_codes_own_word() {
    assert_eq!(classify(exited(0)).status(), Status::Succeeded);
    for code in [1, 2, 124, 134, 137, 139, 143, 255] {
        let error = failed(exited(code));
        assert_eq!(error.error_type, ErrorType::RuntimeError, "sys.exit({code})");
        assert_eq!((error.message, error.exception), (format!("the code exited with status {code}"), None));
    }
}

#[test]
fn a_killed_child_does_not_fail_its_parent() {
    assert_eq!(classify(with_oom_kill(exited(0))).status(), Status::Succeeded);
    assert_eq!(failed(with_oom_kill(exited(137))).error_type, ErrorType::RuntimeError);
}

#[test]
fn out_of_memory_needs_the_killer_and_the_kill() {
    let ending = classify(with_oom_kill(signaled(libc::SIGKILL)));
    let Ending::OutOfMemory { limit_bytes, peak_bytes, observed: Some(_) } = ending else { panic!("{ending:?}") };
    assert_eq!((limit_bytes, peak_bytes), (512 << 20, 9 << 20));
    assert_eq!(failed(signaled(libc::SIGKILL)).error_type, ErrorType::Killed);
    assert_eq!(failed(with_oom_kill(signaled(libc::SIGSEGV))).error_type, ErrorType::Segfault);
    assert_eq!(classify(with_oom_kill(facts(End::TimedOut))).status(), Status::Timeout);
}

#[test]
fn a_memory_error_is_a_failure_with_its_class() {
    let error = failed(raised("MemoryError", &["Exception", "BaseException"]));
    assert_eq!(error.error_type, ErrorType::RuntimeError);
    assert_eq!(error.exception.as_deref(), Some("MemoryError"));
    assert_eq!(error.message, "MemoryError: what happened");
}

#[test]
fn a_limit_is_a_timeout_of_the_execution() {
    let ending = classify(facts(End::TimedOut));
    assert!(matches!(ending, Ending::TimedOut { phase: Phase::Execution, limit_ms: 30_000, observed: Some(_) }));
    assert_eq!(classify(facts(End::Cancelled)).status(), Status::Cancelled);
}

#[test]
fn a_signal_has_its_name() {
    for (signal, error_type) in [
        (libc::SIGSEGV, ErrorType::Segfault),
        (libc::SIGABRT, ErrorType::Abort),
        (libc::SIGFPE, ErrorType::ArithmeticError),
        (libc::SIGBUS, ErrorType::BusError),
        (libc::SIGPIPE, ErrorType::PipeError),
        (libc::SIGKILL, ErrorType::Killed),
        (libc::SIGTERM, ErrorType::Killed),
        (libc::SIGUSR1, ErrorType::Killed),
        (libc::SIGSYS, ErrorType::Permission),
        (libc::SIGXFSZ, ErrorType::FileError),
    ] {
        let error = failed(signaled(signal));
        assert_eq!(error.error_type, error_type, "signal {signal}");
        assert!(error.message.contains(&format!("signal {signal}")), "{}", error.message);
    }
}

#[test]
fn an_exception_is_named_by_its_nearest_known_class() {
    const EXCEPTION: [&str; 2] = ["Exception", "BaseException"];
    for (class, bases, error_type) in [
        ("SyntaxError", &[][..], ErrorType::SyntaxError),
        ("IndentationError", &["SyntaxError"], ErrorType::SyntaxError),
        ("TabError", &["IndentationError", "SyntaxError"], ErrorType::SyntaxError),
        ("ImportError", &[], ErrorType::ImportError),
        ("ModuleNotFoundError", &["ImportError"], ErrorType::ImportError),
        ("TypeError", &[], ErrorType::TypeError),
        ("ValueError", &[], ErrorType::ValueError),
        ("json.decoder.JSONDecodeError", &["ValueError"], ErrorType::JsonError),
        ("UnicodeDecodeError", &["UnicodeError", "ValueError"], ErrorType::EncodingError),
        ("UnicodeEncodeError", &["UnicodeError", "ValueError"], ErrorType::EncodingError),
        ("KeyError", &["LookupError"], ErrorType::KeyError),
        ("__main__.Missing", &["KeyError", "LookupError"], ErrorType::KeyError),
        ("IndexError", &["LookupError"], ErrorType::IndexError),
        ("AttributeError", &[], ErrorType::AttributeError),
        ("dataclasses.FrozenInstanceError", &["AttributeError"], ErrorType::AttributeError),
        ("NameError", &[], ErrorType::NameError),
        ("UnboundLocalError", &["NameError"], ErrorType::NameError),
        ("FileNotFoundError", &["OSError"], ErrorType::FileNotFound),
        ("PermissionError", &["OSError"], ErrorType::Permission),
        ("IsADirectoryError", &["OSError"], ErrorType::FileError),
        ("BrokenPipeError", &["ConnectionError", "OSError"], ErrorType::PipeError),
        ("ConnectionRefusedError", &["ConnectionError", "OSError"], ErrorType::NetworkError),
        ("socket.gaierror", &["OSError"], ErrorType::NetworkError),
        ("TimeoutError", &["OSError"], ErrorType::NetworkTimeout),
        ("OSError", &[], ErrorType::OsError),
        ("ChildProcessError", &["OSError"], ErrorType::OsError),
        ("RecursionError", &["RuntimeError"], ErrorType::RecursionError),
        ("AssertionError", &[], ErrorType::AssertionError),
        ("ZeroDivisionError", &["ArithmeticError"], ErrorType::DivisionError),
        ("OverflowError", &["ArithmeticError"], ErrorType::OverflowError),
        ("FloatingPointError", &["ArithmeticError"], ErrorType::ArithmeticError),
        ("RuntimeError", &[], ErrorType::RuntimeError),
        ("NotImplementedError", &["RuntimeError"], ErrorType::RuntimeError),
        ("__main__.Own", &[], ErrorType::RuntimeError),
        // The first of two known bases, in resolution order.
        ("__main__.Both", &["IndexError", "LookupError", "TypeError"], ErrorType::IndexError),
        // A class is known by its full name only: this one derives from Exception.
        ("__main__.KeyError", &[], ErrorType::RuntimeError),
        ("__main__.MemoryError", &[], ErrorType::RuntimeError),
    ] {
        let error = failed(raised(class, &[bases, &EXCEPTION].concat()));
        assert_eq!(error.error_type, error_type, "{class}");
        assert_eq!(error.exception.as_deref(), Some(class));
    }
}

#[test]
fn an_exception_without_words_is_told_by_its_class() {
    let mut facts = raised("AssertionError", &["Exception", "BaseException"]);
    facts.exception.as_mut().unwrap().message.clear();
    assert_eq!(failed(facts).message, "AssertionError");
}

#[test]
fn words_in_a_message_decide_nothing() {
    let mut facts = raised("ValueError", &["Exception", "BaseException"]);
    facts.exception.as_mut().unwrap().message = "MemoryError: Killed (oom) timeout KeyError".to_owned();
    assert_eq!(failed(facts).error_type, ErrorType::ValueError);
}

#[test]
fn what_the_code_does_is_never_the_services_fault() {
    let by_exception =
        ["ConnectionError", "OSError", "__main__.DockerError"].map(|class| raised(class, &["Exception"]));
    let by_signal = (1..=64).map(signaled);
    let by_status = (1..=255).map(exited);
    for facts in by_exception.into_iter().chain(by_signal).chain(by_status) {
        assert!(!failed(facts.clone()).error_type.is_infrastructure(), "{facts:?}");
    }
}
