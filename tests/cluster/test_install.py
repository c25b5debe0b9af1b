"""What a user of the library does: install, compile the README's program with pkg-config, run it."""

import os
import re
import shutil

from harness import check, equal, needs

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def readme_blocks(language):
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        return re.findall(rf"```{language}\n(.*?)```", f.read(), re.S)


def installed(t):
    build = os.path.dirname(os.path.dirname(t.replog))
    needs(os.path.exists(os.path.join(build, "lib", "libreplog.a")), "this build makes no library")
    needs(shutil.which("cmake") and shutil.which("pkg-config"), "no cmake or pkg-config")
    prefix = os.path.join(t.dir, "prefix")
    t.run("cmake", "--install", build, "--prefix", prefix).ok()
    pc = next(os.path.join(r, "replog.pc") for r, _, f in os.walk(prefix) if "replog.pc" in f)
    return prefix, os.path.dirname(pc)


def build_program(t, source, package, pc_dir, name):
    path = os.path.join(t.dir, name + ".c")
    with open(path, "w", encoding="utf-8") as f:
        f.write(source)
    env = dict(os.environ, PKG_CONFIG_PATH=pc_dir)
    flags = t.run("pkg-config", "--cflags", "--libs", package, env=env).ok().out.decode().split()
    program = os.path.join(t.dir, name)
    t.run("cc", "-std=c11", "-Wall", "-Wextra", "-Werror", path, "-o", program, *flags).ok()
    return program


def test_the_readme_program_compiles_and_runs(t):
    c = t.cluster(3)
    prefix, pc_dir = installed(t)
    blocks = readme_blocks("c")
    check(blocks, "the README shows a C program")
    program = build_program(t, blocks[0], "replog", pc_dir, "first")
    result = t.run(program, c.endpoints).ok()
    check(result.out, f"it prints what it read: {result}")
    values = [r["value"] for r in c.read()]
    check(all(v in result.out.decode() for v in values[-2:]), f"what is in the log: {result}")
    for name in ("replogd", "replog"):
        check(os.access(os.path.join(prefix, "bin", name), os.X_OK), f"bin/{name} is installed")


def test_the_log_alone_links_without_the_network(t):
    _, pc_dir = installed(t)
    source = """
#include <replog/wal.h>
#include <stdio.h>
int main(int argc, char **argv) {
    replog_wal *wal;
    replog_error err;
    uint64_t seq;
    replog_write w = {REPLOG_OP_PUT, "k", 1, "v", 1};
    if (argc != 2 || replog_wal_open(argv[1], NULL, &wal, &err) != REPLOG_OK ||
        replog_wal_append(wal, &w, &seq, &err) != REPLOG_OK ||
        replog_wal_close(wal, &err) != REPLOG_OK) {
        fprintf(stderr, "%s\\n", err.text);
        return 1;
    }
    printf("%llu\\n", (unsigned long long)seq);
    return 0;
}
"""
    program = build_program(t, source, "replog-wal", pc_dir, "alone")
    libraries = t.run("ldd", program).ok().out
    check(b"nng" not in libraries and b"nghttp2" not in libraries, f"lean: {libraries}")
    for expected in (b"1\n", b"2\n"):
        equal(t.run(program, os.path.join(t.dir, "wal")).ok().out, expected, "its seq")
    t.run(t.replog, "--json", "wal", "verify", os.path.join(t.dir, "wal")).ok()


def test_the_readme_python_program_runs(t):
    try:
        import grpc  # noqa: F401
    except ImportError:
        needs(False, "no python3-grpcio")
    needs(shutil.which("protoc"), "no protoc")
    c = t.cluster(3, calm=True)
    blocks = readme_blocks("python")
    check(blocks, "the README shows a Python program")
    t.run("protoc", "-I", os.path.join(ROOT, "proto"), f"--python_out={t.dir}", "replog.proto").ok()
    path = os.path.join(t.dir, "first.py")
    with open(path, "w", encoding="utf-8") as f:
        f.write(blocks[0].replace("127.0.0.1:7401", c.leader().address))
    import sys
    result = t.run(sys.executable, path, cwd=t.dir).ok()
    check(result.out, f"it prints what it read: {result}")
