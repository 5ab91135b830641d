//! A world's host with systemd as PID 1: the real one, of its own pid, mount and cgroup namespaces.

use std::fs;

use crate::child::Ended;
use crate::guard::{binary, state};
use crate::workspace;
use crate::world::World;

/// What a unit begins with that waits for none of the usual targets, since the machine has none. It works in the world's
/// directory.
pub const BARE: &str = "[Unit]\nDefaultDependencies=no\n[Service]\nWorkingDirectory=DIR\n";

/// Where a script puts the binary for units that are shipped: they do not see the world's directory.
pub const INSTALLED: &str = "/run/blackstart-lab";

/// Who is at the system bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// D-Bus, and through it systemd.
    Answers,
    /// Somebody who takes connections and says nothing.
    Silent,
}

/// Where the machine has its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    /// cgroup2 at `/sys/fs/cgroup`.
    Unified,
    /// cgroup2 at `/sys/fs/cgroup/unified`, beside systemd's own hierarchy of the first version.
    Hybrid,
}

/// One unit runs the script and ends the machine with its exit code.
const SCRIPT: &str = "[Unit]\n\
    DefaultDependencies=no\n\
    Requires=dbus.socket dbus.service\n\
    After=dbus.socket dbus.service\n\
    SuccessAction=exit-force\n\
    FailureAction=exit-force\n\
    [Service]\n\
    Type=oneshot\n\
    Environment=BLACKSTART_STATE=KEPT\n\
    Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
    WorkingDirectory=DIR\n\
    ExecStart=/bin/sh -e DIR/booted/script\n\
    KillMode=control-group\n\
    StandardOutput=file:DIR/booted/out\n\
    StandardError=file:DIR/booted/err\n";

const SOCKET: &str = "[Unit]\n\
    DefaultDependencies=no\n\
    [Socket]\n\
    ListenStream=/run/dbus/system_bus_socket\n";

const DAEMON: &str = "[Unit]\n\
    DefaultDependencies=no\n\
    Requires=dbus.socket\n\
    [Service]\n";

/// The machine writes nothing outside of its own /run, world and cgroup: /etc and /proc/sys are read-only, and its
/// console is a file.
const BOOT: &str = "mount -t proc proc /proc\n\
    mount --bind -o ro /proc/sys /proc/sys\n\
    mount --rbind /etc /etc\n\
    mount -o remount,bind,ro /etc\n\
    mount -t tmpfs -o mode=755 tmpfs /run\n\
    mkdir -p /run/systemd/system\n\
    MOUNT\n\
    mount --bind DIR/booted/console /dev/console\n\
    for init in /usr/lib/systemd/systemd /lib/systemd/systemd; do\n\
      [ ! -x $init ] || exec env -i container=lab PATH=/usr/bin:/bin SYSTEMD_UNIT_PATH=DIR/booted/units $init \
        --system --unit=script.service --log-target=console --show-status=no\n\
    done\n";

/// Everything goes into a cgroup of the world's own, which is the top of what the machine sees.
const OUTER: &str = "ENTER\n\
    top=$(findmnt -rnt cgroup2 -o TARGET | head -n1)\n\
    mkdir -p $top/ID/machine\n\
    echo $$ >$top/ID/machine/cgroup.procs\n\
    code=0\n\
    setpriv --pdeathsig KILL unshare --mount --propagation slave --pid --fork --kill-child --cgroup --ipc --uts \
      sh -e DIR/booted/boot >&2 || code=$?\n\
    LEAVE\n\
    cat DIR/booted/out\n\
    cat DIR/booted/console DIR/booted/err >&2\n\
    exit $code\n";

const UNIFIED: &str = "mount -t cgroup2 cgroup2 /sys/fs/cgroup";
const HYBRID: &str = "mount -t tmpfs tmpfs /sys/fs/cgroup\n\
    mkdir /sys/fs/cgroup/unified /sys/fs/cgroup/systemd\n\
    mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified\n\
    mount -t cgroup -o none,name=systemd systemd /sys/fs/cgroup/systemd";

/// A part of systemd's hierarchy of the first version for the machine alone, and its end.
const ENTER: &str = "mkdir -p DIR/booted/v1\n\
    mount -t cgroup -o none,name=systemd systemd DIR/booted/v1\n\
    mkdir DIR/booted/v1/ID\n\
    echo $$ >DIR/booted/v1/ID/cgroup.procs";
const LEAVE: &str = "echo $$ >DIR/booted/v1/cgroup.procs\n\
    find DIR/booted/v1/ID -depth -type d -exec rmdir {} ';'\n\
    umount DIR/booted/v1";

/// The text with the world's own in the place of DIR (its directory), KEPT (the state of its runs), and BLACKSTART before a
/// blank (the binary).
fn of_world(world: &World, text: &str) -> String {
    text.replace("BLACKSTART ", &format!("{} ", binary()))
        .replace("DIR", &world.dir().display().to_string())
        .replace("KEPT", &state(world).display().to_string())
}

/// Give the machine a unit.
pub(crate) fn unit(world: &World, name: &str, text: &str) {
    let text = of_world(world, text).replace("UNIT", name);
    world.file(&format!("booted/units/{name}"), &text);
}

/// A unit that is shipped, for a machine that has none of the usual targets and the binary where it is [`INSTALLED`]. `more` is
/// added to what it says of its service: at least its state goes to this machine's own /run, since /var is everybody's.
pub fn shipped(name: &str, more: &str) -> String {
    let path = workspace::root().join("dist/systemd").join(name);
    let text = fs::read_to_string(path).expect("read a unit that is shipped");
    text.replace("/usr/local/bin/blackstart", INSTALLED)
        .replace("[Unit]", "[Unit]\nDefaultDependencies=no")
        .replace("StateDirectory=blackstart\nStateDirectoryMode=0700\n", "")
        .replace("[Service]", &format!("[Service]\n{more}"))
}

/// Start the machine, run `script` (by `sh -e`) as a unit of it, and shut it down.
pub(crate) fn boot(world: &World, cgroups: Cgroups, bus: Bus, script: &str) -> Ended {
    let (mount, enter, leave) = match cgroups {
        Cgroups::Unified => (UNIFIED, "", ""),
        Cgroups::Hybrid => (HYBRID, ENTER, LEAVE),
    };
    let here = |text: &str| {
        let text = text
            .replace("MOUNT", mount)
            .replace("ENTER", enter)
            .replace("LEAVE", leave);
        of_world(world, &text).replace("ID", world.id())
    };
    let daemon = match bus {
        Bus::Answers => {
            "Type=notify\nNotifyAccess=main\nExecStart=/usr/bin/dbus-daemon --system --address=systemd: \
             --nofork --nopidfile --systemd-activation\n"
        }
        Bus::Silent => "ExecStart=/bin/sleep infinity\n",
    };
    for (name, text) in [
        ("units/script.service", SCRIPT),
        ("units/dbus.socket", SOCKET),
        ("units/dbus.service", &format!("{DAEMON}{daemon}")),
        ("boot", BOOT),
        ("console", ""),
        ("out", ""),
        ("err", ""),
    ] {
        world.file(&format!("booted/{name}"), &here(text));
    }
    world.file("booted/script", &of_world(world, script));
    world.run(&["sh", "-ec", &here(OUTER)])
}
