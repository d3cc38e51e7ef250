//! What the interpreter runs while it starts, to wait for its job.
//!
//! Python imports a module `sitecustomize`, where it finds one, as the last thing before its
//! script. The guest puts [`DIRECTORY`] on the module path, so that it finds [`SOURCE`], which
//! waits for the job and then removes its own traces. So the job's code runs in the very
//! interpreter that `python3 /code/main.py` is: nothing is below it on the stack, and nothing
//! was compiled for it beside itself.
//!
//! Every engine puts [`SOURCE`] into [`DIRECTORY`], with its bytecode beside it as Python
//! itself would cache it. Without bytecode, or with that of another version, the interpreter
//! compiles the source at each start, which costs it a tenth of its time.

/// Where the module lies in every sandbox. Its user reads it and does not write it.
pub const DIRECTORY: &str = "/tako/python";

/// The module's file.
pub const FILE: &str = "/tako/python/sitecustomize.py";

/// The module.
pub const SOURCE: &str = include_str!("sitecustomize.py");

/// A program that takes [`FILE`] and [`SOURCE`] as arguments and prints the interpreter's
/// cache tag (`cpython-311`), a newline and the bytecode. The bytecode is good for the path it is
/// cached at whatever the times of the files.
pub const COMPILE: &str = include_str!("compile.py");

/// Where Python looks for the bytecode of [`FILE`].
pub fn cached(cache_tag: &str) -> String {
    format!("{DIRECTORY}/__pycache__/sitecustomize.{cache_tag}.pyc")
}
