//! The machine's whole disk: an initramfs with this program as its init, the tests, and what they call.
//!
//! What is built here keeps its path, so that the tests find their workspace and each other as they do on the host.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use cpio::newc::{Builder, ModeFileType, trailer};

use super::plan::{PLUGINS, Plan};
use crate::sandbox::{command, program};

/// Where the plan is, inside.
pub(super) const PLAN: &str = "/plan.json";

/// Called by name, by the tests and the lab.
const COMMANDS: [&str; 11] = [
    "bridge",
    "cat",
    "ip",
    "ip6tables",
    "ip6tables-restore",
    "iptables",
    "iptables-restore",
    "readlink",
    "sh",
    "sysctl",
    "tc",
];

/// Of this workspace, beside the tests.
const PROGRAMS: [&str; 3] = ["vethwall", "vethwall-cni", "vethwall-lab"];

/// Of the workspace, for the lab.
const FOLDERS: [&str; 2] = [PLUGINS, "examples"];

/// Empty directories for init to mount on and for the tests to use.
const DIRECTORIES: [&str; 8] = [
    "/dev", "/etc", "/proc", "/root", "/run", "/sys", "/tmp", "/var/lib",
];

/// What of the modules concerns us; the kernel asks for those it needs through modprobe.
const MODULES: [&str; 6] = [
    "crypto",
    "drivers/net/ifb.ko",
    "drivers/net/veth.ko",
    "drivers/net/vxlan",
    "lib",
    "net",
];

/// Inside path, and the file on the host.
type Files = BTreeMap<PathBuf, PathBuf>;

pub(super) fn write(image: &Path, kernel: &Path, release: &str, plan: &Plan) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut files = Files::new();
    for name in COMMANDS {
        files.insert(Path::new("/bin").join(name), find(name)?);
    }
    files.insert("/sbin/modprobe".into(), find("modprobe")?);
    extensions(&mut files)?;
    for folder in FOLDERS {
        tree(
            &plan.workspace.join(folder),
            &plan.workspace.join(folder),
            &mut files,
        )?;
    }
    let own = std::env::current_exe()?;
    let mut built = vec![
        (PathBuf::from("/init"), own),
        (plan.program.clone(), plan.program.clone()),
    ];
    for name in PROGRAMS {
        let path = program(name)?;
        built.push((path.clone(), path));
    }
    for (inside, path) in &built {
        libraries(path, &mut files)?;
        // A tenth of the size; names of functions stay, for backtraces.
        let stripped = scratch.path().join(path.file_name().context("no file name")?);
        let (from, to) = (path.display().to_string(), stripped.display().to_string());
        command("strip", &["--strip-debug", "-o", &to, &from])?;
        files.insert(inside.clone(), stripped);
    }
    for path in files.values().cloned().collect::<Vec<_>>() {
        libraries(&path, &mut files)?;
    }
    modules(&kernel.join("lib/modules").join(release), release, &mut files)?;
    let plan_file = scratch.path().join("plan.json");
    fs::write(&plan_file, serde_json::to_vec(plan)?)?;
    files.insert(PLAN.into(), plan_file);
    // Pods of the lab get one of their own in its place.
    let resolver = scratch.path().join("resolv.conf");
    fs::write(&resolver, "")?;
    files.insert("/etc/resolv.conf".into(), resolver);
    archive(image, &files, &plan.workspace.join("tests"))
}

/// A command in PATH, or where administrators' commands are.
fn find(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not installed: run 'scripts/setup.sh vm'"))
}

/// Libraries of a program, its loader included, at their own paths. A static one and what is no program have none.
fn libraries(path: &Path, files: &mut Files) -> Result<()> {
    let mut magic = [0; 4];
    let is_elf = io::Read::read_exact(&mut File::open(path)?, &mut magic).is_ok() && magic == *b"\x7fELF";
    let Ok(listed) = command("ldd", &[&path.display().to_string()]) else {
        return Ok(());
    };
    if !is_elf {
        return Ok(());
    }
    for line in listed.lines() {
        ensure!(!line.contains("not found"), "{}: {line}", path.display());
        if let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) {
            files.insert(library.into(), library.into());
        }
    }
    Ok(())
}

/// iptables loads its matches and targets from where it was built to.
fn extensions(files: &mut Files) -> Result<()> {
    let directory = ["/usr/lib/x86_64-linux-gnu/xtables", "/usr/lib/xtables"]
        .map(PathBuf::from)
        .into_iter()
        .find(|directory| directory.is_dir())
        .context("no directory of iptables' extensions")?;
    tree(&directory, &directory, files)
}

/// All files below a directory, at another place inside.
fn tree(directory: &Path, inside: &Path, files: &mut Files) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        let inside = inside.join(path.file_name().context("no file name")?);
        if path.is_dir() {
            tree(&path, &inside, files)?;
        } else {
            files.insert(inside, path);
        }
    }
    Ok(())
}

fn modules(directory: &Path, release: &str, files: &mut Files) -> Result<()> {
    let mut all = Files::new();
    tree(directory, &Path::new("/lib/modules").join(release), &mut all)?;
    let kernel = Path::new("/lib/modules").join(release).join("kernel");
    files.extend(all.into_iter().filter(|(inside, _)| {
        match inside.strip_prefix(&kernel) {
            Ok(module) => {
                let module = module.to_string_lossy();
                MODULES.iter().any(|wanted| module.starts_with(wanted))
            }
            // What modprobe looks things up in, which lies beside that directory.
            Err(_) => inside
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("modules.")),
        }
    }));
    Ok(())
}

/// `tests` is where the paths of some files begin that lie beside it.
fn archive(image: &Path, files: &Files, tests: &Path) -> Result<()> {
    let mut directories: BTreeSet<&Path> = DIRECTORIES.iter().map(Path::new).chain([tests]).collect();
    for path in files.keys() {
        directories.extend(path.ancestors().skip(1));
    }
    for path in directories.clone() {
        directories.extend(path.ancestors());
    }
    let mut output = BufWriter::new(File::create(image)?);
    for directory in directories.iter().filter(|path| path.parent().is_some()) {
        let entry = named(directory)
            .mode(0o755)
            .set_mode_file_type(ModeFileType::Directory);
        entry.write(&mut output, 0).finish()?;
    }
    for (inside, path) in files {
        let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let size = u32::try_from(file.metadata()?.len())?;
        let entry = named(inside)
            .mode(0o755)
            .set_mode_file_type(ModeFileType::Regular);
        let mut entry = entry.write(&mut output, size);
        io::copy(&mut file, &mut entry)?;
        entry.finish()?;
    }
    // The kernel opens it for init before /dev is mounted.
    let console = named(Path::new("/dev/console"))
        .mode(0o600)
        .rdev_major(5)
        .rdev_minor(1)
        .set_mode_file_type(ModeFileType::Char);
    console.write(&mut output, 0).finish()?;
    trailer(output)?.flush()?;
    Ok(())
}

fn named(path: &Path) -> Builder {
    Builder::new(path.to_string_lossy().trim_start_matches('/'))
        .uid(0)
        .gid(0)
}
