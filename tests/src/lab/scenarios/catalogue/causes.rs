//! Loads of real programs that more than one scenario has, as shell scripts. `DIR` is the directory of
//! the scenario's files, `SELF` this program, `PORT` the service's port.

/// A backup.
pub(super) const TAR: &str = "while :; do tar -cf - -C \"$DIR\" archive | cat >/dev/null; done";
/// A backup that runs once.
pub(super) const TAR_ONCE: &str = "tar -cf - -C \"$DIR\" archive | cat >/dev/null; sleep 600";
/// A copy.
pub(super) const RSYNC: &str =
    "while :; do rsync --whole-file \"$DIR/archive\" \"$DIR/copy\"; rm -f \"$DIR/copy\"; done";
/// The metadata of all files.
pub(super) const FIND: &str =
    "while :; do find / -xdev -size +1M -newer /etc/passwd; done >/dev/null";
/// Reads and hashes all programs and libraries.
pub(super) const SCAN: &str =
    "while :; do find /usr/bin /usr/lib -xdev -type f -exec sha256sum {} +; done >/dev/null";
/// A log of 40 MB/s, rotated at 20 MB.
pub(super) const LOG: &str =
    "while :; do yes 'GET / 200' | head -c 20000000 >\"$DIR/log\"; sleep 0.45; done";
/// Jobs that start at the same time.
pub(super) const CRON: &str = "while :; do for i in 1 2 3 4 5 6 7 8 9 10 11 12; do \
    python3 -c 'import json, ssl, email.message, time; b = bytearray(8 << 20); time.sleep(1)' & \
    done; sleep 4; done";
/// A C++ compiler with templates, from a file that it writes.
pub(super) const COMPILE: &str = "cd \"$DIR\" && mkdir -p $$ && cd $$ && \
    printf '#include <regex>\\n#include <map>\\n#include <iostream>\\n#include <functional>\\n\
    int main(int n, char **a) { std::map<std::string, std::regex> m; std::smatch s; \
    std::string t(a[0]); for (auto &p : m) if (std::regex_search(t, s, p.second)) \
    std::cout << s.str(); }\\n' >a.cc && while :; do g++ -std=c++17 -O2 -c a.cc; done";
/// The package manager, without a change.
pub(super) const APT: &str = "while :; do apt-get -s -q dist-upgrade; apt-cache gencaches \
    -o Dir::Cache=\"$DIR\"; done >/dev/null 2>&1";
/// A process of 100 MiB that is started again every 3 s, or when it is killed.
pub(super) const RESTARTED: &str = "while :; do timeout 3 \"$SELF\" load anon 100; sleep 0.2; done";
/// Writes to random keys.
pub(super) const REDIS_WRITES: &str = "while :; do awk -v seed=\"$(date +%N)\" 'BEGIN { srand(seed); \
    for (i = 0; i < 2000; i++) printf \"SET key:%d %01000d\\n\", rand() * 200000, i }' | \
    redis-cli -p \"$PORT\" >/dev/null; sleep 0.1; done";
/// A snapshot every 5 s.
pub(super) const REDIS_SAVES: &str =
    "while :; do redis-cli -p \"$PORT\" bgsave >/dev/null; sleep 5; done";
/// A dump of MariaDB's table.
pub(super) const MARIADB_DUMP: &str = "while :; do \
    mariadb-dump --no-defaults --single-transaction -S \"$SERVICE/s\" web | cat; done >/dev/null";
