def _bootstrap():
    import posix
    import sys

    ready, go, report = 3, 4, 5
    if sys.path and sys.path[0] == "":
        del sys.path[0]
    for name in sys.argv[1:]:
        __import__(name)
    sys.stdout.flush()
    sys.stderr.flush()
    posix.set_inheritable(report, False)
    posix.write(ready, b"ready " + sys.version.split()[0].encode() + b"\n")
    if posix.read(go, 1) != b"g":
        posix._exit(0)
    posix.write(ready, b"!")
    posix.close(ready)
    posix.close(go)

    # From here on this process is `python3 /code/main.py`.
    file = "/code/main.py"
    sys.argv[:] = [file]
    if hasattr(sys, "orig_argv"):
        sys.orig_argv[:] = [sys.orig_argv[0], file]
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, "/code")
    main = sys.modules["__main__"].__dict__
    fresh = {
        "__name__": "__main__",
        "__doc__": None,
        "__package__": None,
        "__loader__": sys.modules["_frozen_importlib_external"].SourceFileLoader("__main__", file),
        "__spec__": None,
        "__builtins__": sys.modules["builtins"],
        "__file__": file,
        "__cached__": None,
    }
    if "__annotations__" in main:
        fresh["__annotations__"] = {}
    main.clear()
    main.update(fresh)
    own_pid, getpid, write = posix.getpid(), posix.getpid, posix.write

    def name_of(kind):
        module = kind.__module__
        return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"

    def tell(error):
        # A forked child comes through here too, and the report is not about it.
        if getpid() != own_pid:
            return
        kind = type(error)
        bases = "\n".join(name_of(base) for base in kind.__mro__[1:-1][:64])
        try:
            message = str(error)[:4096]
        except BaseException:
            message = ""
        fields = (name_of(kind)[:1024], bases[:8192], message)
        write(report, "\0".join(fields).encode("utf-8", "backslashreplace"))

    try:
        with open(file, "rb") as source:
            text = source.read()
        if b"\0" in text:
            raise SyntaxError("source code cannot contain null bytes")
        exec(compile(text, file, "exec", dont_inherit=True), main)
    except SystemExit:
        raise
    except BaseException as error:
        # The traceback begins with this function's frame, which is not the user's.
        trace = error.__traceback__.tb_next
        try:
            tell(error)
        except BaseException:
            pass
        hook = getattr(sys, "excepthook", None)

        def show(kind, value, _):
            if hook is None:
                del sys.excepthook
                sys.stderr.write("sys.excepthook is missing\n")
            else:
                sys.excepthook = hook
            (hook or sys.__excepthook__)(kind, value.with_traceback(trace), trace)

        sys.excepthook = show
        raise


_bootstrap()
