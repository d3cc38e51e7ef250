//! What the facts of a run mean. Facts come from the kernel and the interpreter; nothing is
//! ever concluded from words in the output.

use tako_guest::protocol::{End, Exception};

use super::ErrorType;
use super::execution_record::Ending;
use super::job::{Failure, Observed, Phase};

/// What the guest and the engine saw of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    pub end: End,
    pub exception: Option<Exception>,
    pub execution_timeout_ms: u64,
    pub memory_limit_bytes: u64,
    pub observed: Observed,
}

/// Names a run's end.
///
/// An execution is out of memory only when the cgroup's OOM killer struck *and* the interpreter
/// died of SIGKILL: an exit status is the code's own word, so `sys.exit(137)` is a failure and
/// a killed child of a parent that exits 0 is a success.
pub fn classify(facts: Facts) -> Ending {
    let Facts { end, exception, execution_timeout_ms, memory_limit_bytes, observed } = facts;
    match end {
        End::Exited { code: 0 } => Ending::Succeeded { observed },
        End::Exited { code } => Ending::Failed { error: exit_failure(code, exception), observed: Some(observed) },
        End::Signaled { signal: libc::SIGKILL } if observed.usage.oom_killed => Ending::OutOfMemory {
            limit_bytes: memory_limit_bytes,
            peak_bytes: observed.usage.max_rss_bytes,
            observed: Some(observed),
        },
        End::Signaled { signal } => Ending::Failed { error: signal_failure(signal), observed: Some(observed) },
        End::TimedOut => {
            Ending::TimedOut { phase: Phase::Execution, limit_ms: execution_timeout_ms, observed: Some(observed) }
        }
        End::Cancelled => Ending::Cancelled { by: String::new(), reason: None, observed: Some(observed) },
    }
}

fn exit_failure(code: i32, exception: Option<Exception>) -> Failure {
    let Some(exception) = exception else {
        return Failure {
            error_type: ErrorType::RuntimeError,
            message: format!("the code exited with status {code}"),
            phase: Phase::Execution,
            exception: None,
        };
    };
    let message = if exception.message.is_empty() {
        exception.class.clone()
    } else {
        format!("{}: {}", exception.class, exception.message)
    };
    Failure {
        error_type: exception_type(&exception),
        message,
        phase: Phase::Execution,
        exception: Some(exception.class),
    }
}

/// The most specific known class decides: the class itself, else its nearest known base.
fn exception_type(exception: &Exception) -> ErrorType {
    std::iter::once(exception.class.as_str())
        .chain(exception.bases.iter().map(String::as_str))
        .find_map(known_class)
        .unwrap_or(ErrorType::RuntimeError)
}

/// Builtin classes by the names of the Python Language Reference, "Built-in Exceptions".
fn known_class(class: &str) -> Option<ErrorType> {
    Some(match class {
        "SyntaxError" => ErrorType::SyntaxError,
        "ImportError" => ErrorType::ImportError,
        "TypeError" => ErrorType::TypeError,
        "json.decoder.JSONDecodeError" | "json.JSONDecodeError" => ErrorType::JsonError,
        "UnicodeError" => ErrorType::EncodingError,
        "ValueError" => ErrorType::ValueError,
        "KeyError" => ErrorType::KeyError,
        "IndexError" => ErrorType::IndexError,
        "AttributeError" => ErrorType::AttributeError,
        "NameError" => ErrorType::NameError,
        "FileNotFoundError" => ErrorType::FileNotFound,
        "PermissionError" => ErrorType::Permission,
        "FileExistsError" | "IsADirectoryError" | "NotADirectoryError" => ErrorType::FileError,
        "BrokenPipeError" => ErrorType::PipeError,
        "TimeoutError" => ErrorType::NetworkTimeout,
        "ConnectionError" | "socket.gaierror" | "socket.herror" => ErrorType::NetworkError,
        "OSError" => ErrorType::OsError,
        "RecursionError" => ErrorType::RecursionError,
        "AssertionError" => ErrorType::AssertionError,
        "ZeroDivisionError" => ErrorType::DivisionError,
        "OverflowError" => ErrorType::OverflowError,
        "ArithmeticError" => ErrorType::ArithmeticError,
        "Exception" | "BaseException" => ErrorType::RuntimeError,
        _ => return None,
    })
}

fn signal_failure(signal: i32) -> Failure {
    let (error_type, name) = match signal {
        libc::SIGSEGV => (ErrorType::Segfault, "SIGSEGV"),
        libc::SIGABRT => (ErrorType::Abort, "SIGABRT"),
        libc::SIGFPE => (ErrorType::ArithmeticError, "SIGFPE"),
        libc::SIGBUS => (ErrorType::BusError, "SIGBUS"),
        libc::SIGPIPE => (ErrorType::PipeError, "SIGPIPE"),
        libc::SIGXFSZ => (ErrorType::FileError, "SIGXFSZ"),
        libc::SIGKILL => (ErrorType::Killed, "SIGKILL"),
        libc::SIGTERM => (ErrorType::Killed, "SIGTERM"),
        libc::SIGSYS => (ErrorType::Permission, "SIGSYS"),
        _ => (ErrorType::Killed, ""),
    };
    let name = if name.is_empty() { format!("signal {signal}") } else { format!("{name} (signal {signal})") };
    Failure { error_type, message: format!("the code was ended by {name}"), phase: Phase::Execution, exception: None }
}
