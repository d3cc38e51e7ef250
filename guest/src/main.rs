use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let subcommand = arguments.next();
    match subcommand.as_ref().and_then(|name| name.to_str()) {
        Some("init") if arguments.next().is_none() => {
            // SAFETY: nothing else in this process owns descriptors 0 and 1, and nothing
            // after this line uses them.
            let (input, output) = unsafe { (OwnedFd::from_raw_fd(0), OwnedFd::from_raw_fd(1)) };
            tako_guest::init::run(input, output)
        }
        Some("launch") if arguments.next().is_none() => ExitCode::from(tako_guest::launch::main()),
        _ => {
            let _ = writeln!(std::io::stderr(), "usage: tako-guest init | launch");
            ExitCode::from(2)
        }
    }
}
