use std::process::ExitCode;

fn main() -> ExitCode {
    tako_vm::cli::main()
}
