# Python imports this while it starts, as the last thing before its script. It waits for the
# job here, and then the script is the job's: nothing of this file is on its stack or path.
import sys


def leave_no_trace(home):
    import os

    sys.path.remove(home)
    sys.path_importer_cache.pop(home, None)
    rest = os.environ["PYTHONPATH"][len(home) + 1 :]
    if rest:
        os.environ["PYTHONPATH"] = rest
    else:
        del os.environ["PYTHONPATH"]


def wait_for_job():
    import posix

    ready, go, report = 3, 4, 5
    names = b""
    while not names.endswith(b"\n"):
        piece = posix.read(go, 4096)
        if not piece:
            posix._exit(0)
        names += piece
    try:
        for name in names.decode().split():
            __import__(name)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        posix._exit(1)
    sys.stdout.flush()
    sys.stderr.flush()
    posix.set_inheritable(report, False)
    tell_uncaught(report)
    leave_out_of_collections()
    posix.write(ready, b"ready " + sys.version.split()[0].encode() + b"\n")
    word = posix.read(go, 1)
    if word == b"e":
        take_variables(go)
        word = posix.read(go, 1)
    if word != b"g":
        posix._exit(0)
    posix.write(ready, b"!")
    posix.close(ready)
    posix.close(go)


def without_trace(name):
    # The code may look which modules there are.
    was_there = name in sys.modules
    module = __import__(name)
    if not was_there:
        del sys.modules[name]
    return module


def leave_out_of_collections():
    # The interpreter looks at everything several times as it ends. What is here before the job's code
    # lives as long as the interpreter, and looking at it takes a twelfth of a short job's time. The code's
    # own module stands among it, so the code gets another one, whose objects end as ever.
    without_trace("gc").freeze()
    main = type(sys)("__main__")
    main.__dict__.update(sys.modules["__main__"].__dict__)
    sys.modules["__main__"] = main


def take_variables(go):
    import os
    import posix

    variables = b""
    while not variables.endswith(b"\0\0"):
        piece = posix.read(go, 1)
        if not piece:
            posix._exit(0)
        variables += piece
    for variable in variables[:-2].split(b"\0"):
        name, _, value = variable.partition(b"=")
        os.environb[name] = value


def tell_uncaught(report):
    from posix import getpid, write

    atexit = without_trace("atexit")
    own_pid = getpid()

    def name_of(kind):
        module = kind.__module__
        return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"

    # Registered first, it runs last. What the interpreter printed as uncaught, it keeps here.
    @atexit.register
    def tell():
        error = getattr(sys, "last_value", None)
        # A forked child comes through here too, and the report is not about it.
        if error is None or getpid() != own_pid:
            return
        try:
            kind = type(error)
            bases = "\n".join(name_of(base) for base in kind.__mro__[1:-1][:64])
            try:
                message = str(error)[:4096]
            except BaseException:
                message = ""
            fields = (name_of(kind)[:1024], bases[:8192], message)
            write(report, "\0".join(fields).encode("utf-8", "backslashreplace"))
        except BaseException:
            pass


def take_place():
    home = __file__.rpartition("/")[0]
    leave_no_trace(home)
    # The installation may have a module of this name, which comes first and stays. If it has
    # none, or a broken one, the error goes on to who imported this.
    failure = None
    try:
        del sys.modules["sitecustomize"]
        __import__("sitecustomize")
    except BaseException as error:
        failure = error
    # A launcher script may start interpreters of its own on the way to the job's.
    if sys.argv == ["/code/main.py"]:
        wait_for_job()
    if failure is not None:
        try:
            raise failure
        finally:
            del failure


take_place()
