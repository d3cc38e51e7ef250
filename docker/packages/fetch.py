# Downloads the packages of a job type as wheels. What to get is JSON on standard input; the wheels
# end in the folder "wheels" below the one it names.
import importlib.util
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request

TOO_LARGE = 75
BUSY = 69


def size_of(folder):
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_blocks * 512
            except OSError:
                pass
    return total


def own_index():
    """The index that pip asks where none is named."""
    from pip._internal.models.index import PyPI

    return PyPI.simple_url


def asked_to_wait(wanted, ca):
    """What an index that answers 429 or 503 wants, as it says it ("" for nothing); None without one.

    pip waits as it is asked, gives up, and says only that it found nothing: so it is asked once more.
    """
    urls = [] if wanted["no_index"] else [wanted["index_url"] or own_index(), *wanted["extra_index_urls"]]
    names = [re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0] for requirement in wanted["requirements"][:1]]
    proxy = {"http": wanted["proxy"], "https": wanted["proxy"]} if wanted["proxy"] else {}
    trust = ssl.create_default_context(cafile=ca if wanted["ca"] else None)
    ask = urllib.request.build_opener(urllib.request.ProxyHandler(proxy), urllib.request.HTTPSHandler(context=trust))
    for url in urls:
        for name in names:
            try:
                ask.open(f"{url.rstrip('/')}/{name.lower()}/", timeout=20).close()
            except urllib.error.HTTPError as error:
                if error.code in (429, 503):
                    after = error.headers.get("Retry-After", "").strip()
                    return after if after.isdecimal() else ""
            except (OSError, ValueError):
                pass
    return None


def main():
    wanted = json.load(sys.stdin)
    if importlib.util.find_spec("pip") is None:
        sys.exit("this Python has no pip; take an image, or an interpreter, on which `python3 -m pip` works")
    folder = wanted["folder"]
    wheels = os.path.join(folder, "wheels")
    scratch = os.path.join(folder, "scratch")
    os.makedirs(wheels)
    os.makedirs(scratch)

    def written(name, text):
        path = os.path.join(folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    # Every setting is named here: what the image or the user has of its own does not count.
    pip = [sys.executable, "-I", "-m", "pip", "--isolated", "--no-input", "--no-color", "--no-cache-dir"]
    pip += ["--disable-pip-version-check", "--timeout", "60", "--retries", "2"]
    if wanted["ca"]:
        pip += ["--cert", written("ca.pem", wanted["ca"])]
    if wanted["proxy"]:
        pip += ["--proxy", wanted["proxy"]]
    # A lock names wheels by their bytes, and what is built anew has others.
    if wanted["source_distributions"] and wanted["lock"] is None:
        pip += ["wheel", "--prefer-binary", "--wheel-dir", wheels]
    else:
        pip += ["download", "--only-binary", ":all:", "--dest", wheels]
    pip += ["--progress-bar", "off"]
    if wanted["no_index"]:
        pip += ["--no-index"]
    elif wanted["index_url"]:
        pip += ["--index-url", wanted["index_url"]]
    for url in wanted["extra_index_urls"]:
        pip += ["--extra-index-url", url]
    # A folder without a wheel is not there.
    if wanted["links"] and os.path.isdir(wanted["links"]):
        pip += ["--find-links", wanted["links"]]
    if wanted["lock"] is None:
        # As arguments behind the last option: in a file pip would read options and variables.
        pip += ["--", *wanted["requirements"]]
    else:
        pip += ["--no-deps", "--require-hashes", "--requirement", written("lock", wanted["lock"])]

    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": scratch, "TMPDIR": scratch, "LANG": "C.UTF-8"}
    process = subprocess.Popen(pip, stdin=subprocess.DEVNULL, env=environment, cwd=scratch)
    ended = threading.Event()
    too_large = False

    def watch():
        nonlocal too_large
        while not ended.wait(0.5):
            if size_of(folder) > wanted["max_bytes"]:
                too_large = True
                process.kill()
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    ended.set()
    watcher.join()
    # Small packages are all there before the first look.
    if too_large or size_of(folder) > wanted["max_bytes"]:
        print("the packages are larger than the limit", file=sys.stderr)
        sys.exit(TOO_LARGE)
    asked = asked_to_wait(wanted, os.path.join(folder, "ca.pem")) if code != 0 else None
    if asked is not None:
        print(f"an index has no time; retry-after: {asked}", flush=True)
        sys.exit(BUSY)
    sys.exit(code if code >= 0 else 128 - code)


main()
