//! Where NCCL and cuBLASLt are. Packages carry them under numbered names alone, as in `libnccl.so.2`, and they are opened as
//! `libnccl.so`: so a folder with links of such names must be in a worker's library path.

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// The variable that holds a worker's library path. It is read when a program starts: set it for the worker, not in it.
pub const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";

/// A library that workers open.
#[derive(Debug)]
pub struct Library {
    /// As people call it.
    pub name: &'static str,
    /// The name under which it is opened.
    opened: &'static str,
    /// Those that packages have, the first that is found.
    pub packaged: &'static [&'static str],
    /// Its folder in Python's packages.
    python: &'static [&'static str],
    is_present: fn() -> bool,
}

/// NCCL.
pub const NCCL: Library = Library {
    name: "NCCL",
    opened: "libnccl.so",
    packaged: &["libnccl.so.2"],
    python: &["nvidia/nccl/lib"],
    is_present: crate::nccl::is_present,
};

/// cuBLASLt, of CUDA 12 or 13: what is used of it is the same.
pub const CUBLASLT: Library = Library {
    name: "cuBLASLt",
    opened: "libcublasLt.so",
    packaged: &["libcublasLt.so.12", "libcublasLt.so.13"],
    python: &["nvidia/cublas/lib", "nvidia/cu13/lib"],
    is_present: crate::cublaslt::is_present,
};

/// Where a library is.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// Workers find it as they are.
    Found,
    /// Workers find it if [`Libraries::library_path`] is theirs.
    Linked(PathBuf),
    /// It was looked for in vain, in these folders.
    Missing(Vec<PathBuf>),
}

/// Where libraries are, and how workers find them.
#[derive(Debug)]
pub struct Libraries {
    /// The folder with the links, if there are any; removed when this is dropped.
    links: Option<Links>,
    /// Each with its place.
    pub places: Vec<(&'static Library, Place)>,
}

impl Libraries {
    /// Looks for `wanted`: as the loader does, then in the library path, where distributions, CUDA's toolkit and containers
    /// of the driver have them, and where Python packages do.
    ///
    /// # Errors
    ///
    /// The system's, where the folder with the links cannot be made.
    pub fn find(wanted: &[&'static Library]) -> io::Result<Self> {
        let mut libraries = Self { links: None, places: Vec::new() };
        for library in wanted {
            let place =
                if (library.is_present)() { Place::Found } else { libraries.link(library, search_path(library))? };
            libraries.places.push((library, place));
        }
        Ok(libraries)
    }

    fn link(&mut self, library: &Library, searched: Vec<PathBuf>) -> io::Result<Place> {
        let paths = searched.iter().flat_map(|folder| library.packaged.iter().map(|name| folder.join(name)));
        let Some(path) = paths.into_iter().find(|path| path.is_file()) else { return Ok(Place::Missing(searched)) };
        let links = match &mut self.links {
            Some(links) => links,
            none => none.insert(Links::make_in(&std::env::temp_dir())?),
        };
        symlink(&path, links.folder.path().join(library.opened))?;
        Ok(Place::Linked(path))
    }

    /// The value of [`LIBRARY_PATH`] that workers need; `None` where theirs will do, or nothing helps.
    #[must_use]
    pub fn library_path(&self) -> Option<OsString> {
        let mut path = self.links.as_ref()?.folder.path().as_os_str().to_owned();
        if let Some(inherited) = std::env::var_os(LIBRARY_PATH).filter(|inherited| !inherited.is_empty()) {
            path.push(":");
            path.push(inherited);
        }
        Some(path)
    }

    /// What to say of those that are missing.
    pub fn missing(&self) -> impl Iterator<Item = (&'static Library, String)> {
        self.places.iter().filter_map(|(library, place)| {
            let Place::Missing(searched) = place else { return None };
            let folders: Vec<String> = searched.iter().map(|folder| folder.display().to_string()).collect();
            Some((*library, format!("{} is in none of {}", library.packaged.join(" or "), folders.join(", "))))
        })
    }
}

/// How the folders with links are called.
const PREFIX: &str = "peregrine-libraries-";

/// A folder younger than this may not be locked yet.
const LOCKED_WITHIN: Duration = Duration::from_secs(60);

/// A folder with links. It is locked while it is used: one that is not was left behind by a process that was killed.
#[derive(Debug)]
struct Links {
    folder: TempDir,
    _lock: OwnedFd,
}

impl Links {
    fn make_in(parent: &Path) -> io::Result<Self> {
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                // What is another user's, or has gone meanwhile, is not ours to remove.
                let _ = remove_if_left(&entry.path());
            }
        }
        let folder = TempDir::with_prefix_in(PREFIX, parent)?;
        let lock = open_folder(folder.path())?;
        flock(&lock, FlockOperation::LockShared)?;
        Ok(Self { folder, _lock: lock })
    }
}

fn open_folder(path: &Path) -> rustix::io::Result<OwnedFd> {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn remove_if_left(path: &Path) -> io::Result<()> {
    let age = std::fs::symlink_metadata(path)?.modified()?.elapsed().unwrap_or_default();
    if age < LOCKED_WITHIN {
        return Ok(());
    }
    let lock = open_folder(path)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    std::fs::remove_dir_all(path)
}

fn search_path(library: &Library) -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name);
    let mut folders: Vec<PathBuf> =
        variable(LIBRARY_PATH).map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    for folder in [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/local/nvidia/lib64",
        "/usr/local/cuda/lib64",
        "/usr/local/cuda/targets/x86_64-linux/lib",
        "/opt/nvidia/nccl/lib",
    ] {
        folders.push(folder.into());
    }
    let home = |name| variable(name).map(PathBuf::from);
    let environments = [home("VIRTUAL_ENV"), home("CONDA_PREFIX"), home("HOME").map(|home| home.join(".local"))];
    let prefixes = environments.into_iter().flatten().chain(["/usr/local".into(), "/usr".into()]);
    folders.extend(prefixes.flat_map(|prefix: PathBuf| python_folders(library, &prefix.join("lib"))));
    folders
}

/// The library's folders in the packages of every Python below `lib`.
fn python_folders(library: &Library, lib: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(lib) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.path());
    let mut pythons: Vec<PathBuf> = names
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3")))
        .collect();
    pythons.sort();
    let packages = ["site-packages", "dist-packages"];
    let below = |python: &PathBuf| packages.map(|name| python.join(name));
    let packages = pythons.iter().flat_map(below);
    packages.flat_map(|packages| library.python.iter().map(move |folder| packages.join(folder))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn a_packaged_library_gets_a_link() {
        let machine = TempDir::new().unwrap();
        for (library, folder, file) in [
            (&NCCL, "nvidia/nccl/lib", "libnccl.so.2"),
            (&CUBLASLT, "nvidia/cublas/lib", "libcublasLt.so.12"),
            (&CUBLASLT, "nvidia/cu13/lib", "libcublasLt.so.13"),
        ] {
            let lib = machine.path().join(file).join("lib");
            let site = lib.join("python3.12/site-packages").join(folder);
            std::fs::create_dir_all(&site).unwrap();
            std::fs::write(site.join(file), "").unwrap();
            let mut libraries = Libraries::find(&[]).unwrap();
            let place = libraries.link(library, python_folders(library, &lib)).unwrap();
            assert_eq!(place, Place::Linked(site.join(file)));
            libraries.places.push((library, place));
            let links = libraries.links.as_ref().unwrap().folder.path().to_owned();
            assert_eq!(std::fs::read_link(links.join(library.opened)).unwrap(), site.join(file));
            let path = libraries.library_path().unwrap();
            assert_eq!(std::env::split_paths(&path).next(), Some(links.clone()), "{path:?}");
            drop(libraries);
            assert!(!links.exists());
        }
    }

    #[test]
    fn a_folder_that_was_left_behind_goes_when_the_next_is_made() {
        let parent = TempDir::new().unwrap();
        let make_old = |path: &Path| {
            let hour_ago = SystemTime::now() - Duration::from_secs(3600);
            std::fs::File::open(path).unwrap().set_modified(hour_ago).unwrap();
        };
        let [left, young] = ["left", "young"].map(|name| parent.path().join(format!("{PREFIX}{name}")));
        for folder in [&left, &young] {
            std::fs::create_dir(folder).unwrap();
        }
        symlink("/nowhere", left.join("libnccl.so")).unwrap();
        let used = Links::make_in(parent.path()).unwrap();
        make_old(&left);
        make_old(used.folder.path());
        let links = Links::make_in(parent.path()).unwrap();
        let exists = [left.as_path(), young.as_path(), used.folder.path(), links.folder.path()].map(Path::exists);
        assert_eq!(exists, [false, true, true, true]);
    }

    #[test]
    fn a_missing_library_is_told_with_where_it_was_looked_for() {
        let mut libraries = Libraries::find(&[]).unwrap();
        let place = libraries.link(&CUBLASLT, vec!["/nowhere".into()]).unwrap();
        libraries.places.push((&CUBLASLT, place));
        assert!(libraries.library_path().is_none());
        let told: Vec<String> = libraries.missing().map(|(_, told)| told).collect();
        assert_eq!(told, ["libcublasLt.so.12 or libcublasLt.so.13 is in none of /nowhere"]);
    }
}
