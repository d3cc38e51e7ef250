import importlib._bootstrap_external as external
import importlib.util
import sys

path, source = sys.argv[1], sys.argv[2].encode()
code = compile(source, path, "exec", dont_inherit=True)
pyc = external._code_to_hash_pyc(code, importlib.util.source_hash(source), False)
sys.stdout.buffer.write(sys.implementation.cache_tag.encode() + b"\n" + pyc)
