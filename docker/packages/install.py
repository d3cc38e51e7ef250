# Makes an environment out of wheels: install.py SOURCE DESTINATION PLACE
# SOURCE has `requirements.lock` and `wheels`; PLACE is where DESTINATION will lie in sandboxes.
import compileall
import os
import shutil
import subprocess
import sys

source, destination, place = sys.argv[1:4]
python = os.path.realpath(sys.executable)
library = "lib/python%d.%d/site-packages" % sys.version_info[:2]
packages = os.path.join(destination, library)
os.makedirs(packages, exist_ok=True)
lock = os.path.join(source, "requirements.lock")
if os.path.getsize(lock):
    scratch = os.path.join(destination, "scratch")
    os.makedirs(scratch)
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": scratch, "TMPDIR": scratch, "LANG": "C.UTF-8"}
    pip = [sys.executable, "-I", "-m", "pip", "--isolated", "--no-input", "--no-color", "--no-cache-dir"]
    pip += ["--disable-pip-version-check", "install", "--no-index", "--find-links", os.path.join(source, "wheels")]
    pip += ["--only-binary", ":all:", "--no-deps", "--require-hashes", "--no-compile", "--no-warn-script-location"]
    pip += ["--target", packages, "--requirement", lock]
    code = subprocess.run(pip, stdin=subprocess.DEVNULL, env=environment).returncode
    if code:
        sys.exit(code)
    shutil.rmtree(scratch)
    # Programs would begin with a path that does not exist there.
    shutil.rmtree(os.path.join(packages, "bin"), ignore_errors=True)
if os.path.exists(os.path.join(source, "has_shared_code")):
    with open(os.path.join(packages, "tako_shared.pth"), "w", encoding="utf-8") as file:
        file.write(os.path.dirname(place) + "/shared\n")
os.makedirs(os.path.join(destination, "bin"), exist_ok=True)
for name in ("python3", "python"):
    os.symlink(python, os.path.join(destination, "bin", name))
with open(os.path.join(destination, "pyvenv.cfg"), "w", encoding="utf-8") as file:
    file.write("home = %s\ninclude-system-site-packages = true\n" % os.path.dirname(python))
# Each start would compile anew otherwise: the root is read-only there. What does not compile is of
# another Python, or a template, and is nobody's fault.
compileall.compile_dir(
    packages,
    quiet=2,
    stripdir=destination,
    prependdir=place,
    invalidation_mode=__import__("py_compile").PycInvalidationMode.UNCHECKED_HASH,
)
