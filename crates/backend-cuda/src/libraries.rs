//! Where NCCL is. Packages carry `libnccl.so.2` alone, and it is opened as `libnccl.so`: so a folder with a link of that name
//! must be in a worker's library path.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The name under which it is opened, and the one that packages have.
const OPENED: &str = "libnccl.so";
const PACKAGED: &str = "libnccl.so.2";

/// The variable that holds a worker's library path. It is read when a program starts: set it for the worker, not in it.
pub const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";

/// Where NCCL is, and how workers find it.
#[derive(Debug)]
pub enum NcclPlace {
    /// Workers find it as they are.
    Found,
    /// This folder must be in front of the workers' [`LIBRARY_PATH`]. It is removed when this is dropped.
    Linked {
        /// The folder.
        folder: TempDir,
        /// What its link points at.
        library: PathBuf,
    },
    /// It was looked for in vain.
    Missing {
        /// Where.
        searched: Vec<PathBuf>,
    },
}

impl NcclPlace {
    /// The value of [`LIBRARY_PATH`] that workers need; `None` where theirs will do, or nothing helps.
    #[must_use]
    pub fn library_path(&self) -> Option<String> {
        let Self::Linked { folder, .. } = self else { return None };
        let folder = folder.path().display();
        Some(match std::env::var(LIBRARY_PATH) {
            Ok(path) if !path.is_empty() => format!("{folder}:{path}"),
            _ => folder.to_string(),
        })
    }
}

/// Looks for NCCL: as the loader does, then in the library path, where distributions, CUDA's toolkit and containers of the
/// driver have it, and where Python packages do.
///
/// # Errors
///
/// The system's, where the folder with the link cannot be made.
pub fn find_nccl() -> io::Result<NcclPlace> {
    if crate::nccl::is_present() {
        return Ok(NcclPlace::Found);
    }
    link(search_path())
}

fn link(searched: Vec<PathBuf>) -> io::Result<NcclPlace> {
    let Some(library) = searched.iter().map(|folder| folder.join(PACKAGED)).find(|path| path.is_file()) else {
        return Ok(NcclPlace::Missing { searched });
    };
    let folder = TempDir::with_prefix("peregrine-nccl-")?;
    symlink(&library, folder.path().join(OPENED))?;
    Ok(NcclPlace::Linked { folder, library })
}

fn search_path() -> Vec<PathBuf> {
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
    folders.extend(prefixes.flat_map(|prefix: PathBuf| python_folders(&prefix.join("lib"))));
    folders
}

/// NCCL's folder in the packages of every Python below `lib`.
fn python_folders(lib: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(lib) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.path());
    let mut pythons: Vec<PathBuf> = names
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3")))
        .collect();
    pythons.sort();
    let packages = ["site-packages", "dist-packages"];
    pythons.iter().flat_map(|python| packages.map(|name| python.join(name).join("nvidia/nccl/lib"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packaged_library_gets_a_link_in_a_folder_of_its_own() {
        let machine = TempDir::new().unwrap();
        let site = machine.path().join("lib/python3.12/site-packages/nvidia/nccl/lib");
        std::fs::create_dir_all(&site).unwrap();
        std::fs::write(site.join(PACKAGED), "").unwrap();
        let place = link(python_folders(&machine.path().join("lib"))).unwrap();
        let path = place.library_path().unwrap();
        let NcclPlace::Linked { folder, library } = &place else { panic!("{place:?}") };
        assert_eq!(std::fs::read_link(folder.path().join(OPENED)).unwrap(), *library);
        assert!(path.starts_with(&*folder.path().to_string_lossy()), "{path}");
        let folder = folder.path().to_owned();
        drop(place);
        assert!(!folder.exists());
    }

    #[test]
    fn a_missing_library_is_told_with_where_it_was_looked_for() {
        let place = link(vec!["/nowhere".into()]).unwrap();
        assert!(place.library_path().is_none());
        assert!(matches!(place, NcclPlace::Missing { searched } if searched == [PathBuf::from("/nowhere")]));
    }
}
