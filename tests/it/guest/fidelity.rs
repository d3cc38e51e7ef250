//! The same code through the guest and as `python3 /code/main.py`: same output, same end.

use bytes::Bytes;
use tako_guest::protocol::End;

use tako_vm::engine::session::GRACE;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::sandbox::{Place, boot, job, plain_python, ready, run, run_job, text};

async fn assert_same(code: &[u8]) {
    let plain = plain_python(code).await;
    let mut job = job("");
    job.code = Bytes::copy_from_slice(code);
    let run = run_job(Place::Init, job).await;
    let shown = String::from_utf8_lossy(code);
    assert_eq!(String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&plain.stdout), "stdout of:\n{shown}");
    assert_eq!(String::from_utf8_lossy(&run.stderr), String::from_utf8_lossy(&plain.stderr), "stderr of:\n{shown}");
    let code = match run.report.end {
        End::Exited { code } => code,
        End::Signaled { signal } => 128 + signal,
        other => panic!("{other:?} of:\n{shown}"),
    };
    assert_eq!(Some(code), plain.status.code(), "end of:\n{shown}");
}

#[tokio::test]
async fn the_module_sees_what_a_script_sees() {
    assert_same(
        b"'''doc'''\nimport sys, os\nprint(sorted(globals()), __name__, __file__, __spec__, __doc__, __package__)\n\
          print(type(__loader__).__name__, __loader__.path, __builtins__)\n\
          print(sys.argv, sys.path, sys.flags, sys.orig_argv[1:], os.getcwd())\n\
          print(sys.stdin.read() == '', sys.stdout.encoding, sys.stderr.encoding, sys.stdout.line_buffering)\n\
          print(sys.modules['__main__'].__dict__ is globals(), sys.getfilesystemencoding())\n\
          print(sys.excepthook is sys.__excepthook__, sys.gettrace(), sys.getrecursionlimit())\n\
          print(sorted((k, v) for k, v in os.environ.items() if k not in ('PWD', 'MAIN', 'OLDPWD', 'SHLVL', '_')))\n",
    )
    .await;
}

#[tokio::test]
async fn uncaught_exceptions_look_the_same() {
    for code in [
        "def f():\n    return undefined\nf()\n",
        "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('x') from e\n",
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    raise KeyError('y')\n",
        "class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E\n",
        "raise ExceptionGroup('g', [ValueError(1), TypeError('é')])\n",
        "import sys\nsys.excepthook = lambda k, v, t: print('hook', k.__name__, v, t.tb_lineno, t.tb_next)\nraise ValueError(3)\n",
        "import sys\ndel sys.excepthook\nraise ValueError(3)\n",
        "import json\njson.loads('{')\n",
        "raise KeyboardInterrupt\n",
        "exec('1/0')\n",
        "import threading\nt = threading.Thread(target=lambda: 1/0, name='t')\nt.start(); t.join()\n",
    ] {
        assert_same(code.as_bytes()).await;
    }
}

#[tokio::test]
async fn code_that_does_not_parse_is_told_the_same_way() {
    for code in [
        b"print(1\n".as_slice(),
        b"x = 1\n  y = 2\n",
        b"def f(:\n    pass\n",
        b"return 1\n",
        b"# -*- coding: latin-1 -*-\nprint('\xe9')\n",
        b"\xef\xbb\xbfprint('bom')\n",
        b"print('windows')\r\nprint('lines')\r\n",
        b"",
        b"print('no newline')",
        b"import ast\nast.parse('a b')\n",
    ] {
        assert_same(code).await;
    }
}

#[tokio::test]
async fn every_way_to_exit_ends_the_same() {
    for code in [
        "import sys; sys.exit()",
        "import sys; sys.exit(3)",
        "import sys; sys.exit(None)",
        "import sys; sys.exit('message')",
        "import sys; sys.exit([1])",
        "import sys; sys.exit(300)",
        "import sys; sys.exit(-1)",
        "import sys; sys.exit(137)",
        "raise SystemExit(True)",
        "exit(4)",
        "import os; print('lost'); os._exit(7)",
        "import os; os.abort()",
        "import os; os.kill(os.getpid(), 15)",
        "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
        "import os, signal; os.kill(os.getpid(), 9)",
        "import atexit; atexit.register(print, 'bye'); print('hello'); raise ValueError",
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(.1), print('joined'))).start()\nprint('main')",
        "import sys; sys.stdout.close()",
        "import sys; sys.stderr.write('no newline'); sys.stdout.write('none either')",
    ] {
        assert_same(code.as_bytes()).await;
    }
}

#[tokio::test]
async fn the_library_finds_its_way_around_the_main_module() {
    for code in [
        "import pickle\nclass P:\n    x = 1\nprint(pickle.loads(pickle.dumps(P())).x, P.__module__)",
        "import inspect\ndef f():\n    return 1\nprint(inspect.getsource(f), inspect.getfile(f))",
        "import dataclasses, typing\n@dataclasses.dataclass\nclass D:\n    x: int = 1\nprint(D(), typing.get_type_hints(D))",
        "import collections\nprint(collections.namedtuple('N', 'a b').__module__)",
        "import asyncio\nasync def f(): return 5\nprint(asyncio.run(f()))",
        "import warnings\ndef f():\n    warnings.warn('careful')\nf()",
        "import multiprocessing as m\ndef f(x): return x * x\nif __name__ == '__main__':\n    with m.get_context('fork').Pool(2) as p: print(p.map(f, [1, 2, 3]))",
        "import multiprocessing as m\ndef f(x): return x * x\nif __name__ == '__main__':\n    with m.get_context('spawn').Pool(1) as p: print(p.map(f, [1, 2, 3]))",
        "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', 'print(6)'], capture_output=True, text=True).stdout)",
        "import doctest\ndef f():\n    '''\n    >>> f()\n    1\n    '''\n    return 1\nprint(doctest.testmod())",
        "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(1, 1)\nimport sys, io\nsys.stderr = io.StringIO()\nunittest.main()",
        "from __future__ import annotations\nx: Missing = 1\nprint(__annotations__)",
        "import __main__\nprint(__main__.__file__)",
        "x: int = 1\nprint(__annotations__)",
    ] {
        assert_same(code.as_bytes()).await;
    }
}

#[tokio::test]
async fn nothing_is_found_below_the_code_or_beside_it() {
    for code in [
        "import sys\nprint(sorted(sys.modules), list(sys.path_importer_cache), sys._getframe().f_back)",
        "def f(n):\n    try: return f(n + 1)\n    except RecursionError: return n\nprint(f(0))",
        "import traceback\ntraceback.print_stack()",
        "import warnings\nwarnings.warn('who', stacklevel=3)",
        "import sys, os, atexit\nprint('PYTHONPATH' in os.environ, os.getenv('PYTHONPATH'), 'sitecustomize' in sys.modules)",
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import sys, os; print(sys.path, os.getenv('PYTHONPATH'))'])",
        "# coding: nonsense\n",
        "class Loud:\n    def __del__(self): print('gone', self.name)\na = Loud(); a.name = 1\nb = [Loud()]; b[0].name = 2; b[0].list = b",
        "def g():\n    try: yield\n    finally: print('closed')\nkept = g(); next(kept)",
        "import os\nclass Loud:\n    def __del__(self): print('gone', self.name)\nos.kept = Loud(); os.kept.name = 3",
        "import gc\nprint('gc' in vars(), gc.isenabled(), gc.get_threshold(), gc.garbage)\nx = []; x.append(x); del x\nprint(gc.collect() > 0)",
        "import sys, types\nm = sys.modules['__main__']\nprint(type(m) is types.ModuleType, m.__dict__ is globals(), list(globals()))",
        "file = open('/output/unclosed', 'w'); file.write('x')\nimport atexit\natexit.register(lambda: print(file.closed))",
    ] {
        assert_same(code.as_bytes()).await;
    }
}

#[tokio::test]
async fn a_file_left_open_is_written_at_the_end() {
    let run = run("kept = open('/output/a.txt', 'w'); kept.write('whole')").await;
    assert_eq!(run.artifacts[0].1, "whole");
}

#[tokio::test]
async fn the_module_path_of_the_environment_is_the_codes() {
    let mut boot = boot();
    boot.environment.insert("PYTHONPATH".to_owned(), "/input:/tmp".to_owned());
    let (_sandbox, session, _) = ready(Place::Init, &boot).await.unwrap();
    let job = job("import os, sys\nprint(sys.path[:3], os.environ['PYTHONPATH'])");
    let run = session.run(job, mpsc::channel(1).0, CancellationToken::new(), GRACE).await.unwrap();
    assert_eq!(text(&run.stdout), "['/code', '/input', '/tmp'] /input:/tmp\n");
}

#[tokio::test]
async fn a_signal_is_not_an_exit_code() {
    for (code, end) in [
        ("import os; os.abort()", End::Signaled { signal: 6 }),
        ("import os; os.kill(os.getpid(), 9)", End::Signaled { signal: 9 }),
        ("import sys; sys.exit(137)", End::Exited { code: 137 }),
        ("raise KeyboardInterrupt", End::Signaled { signal: 2 }),
    ] {
        assert_eq!(run(code).await.report.end, end);
    }
}

#[tokio::test]
async fn an_uncaught_exception_is_named_with_its_bases() {
    let report = run("import json\njson.loads('{')").await.report;
    let exception = report.exception.unwrap();
    assert_eq!(exception.class, "json.decoder.JSONDecodeError");
    assert_eq!(exception.bases, ["ValueError", "Exception", "BaseException"]);
    assert!(exception.message.starts_with("Expecting property name"), "{exception:?}");

    let report = run("open('/nowhere')").await.report;
    let exception = report.exception.unwrap();
    assert_eq!(exception.class, "FileNotFoundError");
    assert_eq!(exception.bases, ["OSError", "Exception", "BaseException"]);

    let exception = run("class E(KeyError): pass\nraise E('é' * 9000)").await.report.exception.unwrap();
    assert_eq!(exception.class, "__main__.E");
    assert_eq!(exception.bases[0], "KeyError");
    assert!(exception.message.len() <= 4096 && exception.message.contains('é'));

    let exception = run("print(").await.report.exception.unwrap();
    assert_eq!(exception.class, "SyntaxError");
}

#[tokio::test]
async fn an_exception_that_is_not_the_codes_end_is_not_reported() {
    let report = run("import os\nif os.fork() == 0: raise ValueError\nos.wait()").await.report;
    assert_eq!((report.end, report.exception), (End::Exited { code: 0 }, None));
    let report = run("import sys\ntry: 1/0\nexcept Exception: sys.exit(1)").await.report;
    assert_eq!((report.end, report.exception), (End::Exited { code: 1 }, None));
}

#[tokio::test]
async fn standard_input_is_empty_and_the_folder_is_output() {
    let run = run("import os\nprint(os.getcwd(), os.read(0, 1), oct(os.umask(0)))").await;
    assert_eq!(text(&run.stdout), "/output b'' 0o22\n");
}
