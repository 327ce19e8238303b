//! Signs of an NVIDIA GPU where the driver's library cannot be opened: a driver that is half installed, or a container that was
//! started without it.

use std::path::Path;

/// Files of a driver.
const FILES: [&str; 4] = ["dev/nvidiactl", "dev/nvidia0", "proc/driver/nvidia/version", "dev/dxg"];
/// NVIDIA's, on the PCI bus.
const VENDOR: &str = "0x10de";
/// Display controllers are of class 3: graphics of subclass 0, others of 2.
const DISPLAY_CLASS: &str = "0x03";

/// What says that there is a GPU; `None` if nothing does.
#[must_use]
pub fn gpu_traces() -> Option<String> {
    traces_below(Path::new("/"))
}

fn traces_below(root: &Path) -> Option<String> {
    if let Some(file) = FILES.into_iter().find(|file| root.join(file).exists()) {
        return Some(format!("/{file}"));
    }
    let devices = std::fs::read_dir(root.join("sys/bus/pci/devices")).ok()?;
    let is_gpu = |device: &Path| {
        let starts = |file: &str, text: &str| {
            std::fs::read_to_string(device.join(file)).is_ok_and(|found| found.trim().starts_with(text))
        };
        starts("vendor", VENDOR) && starts("class", DISPLAY_CLASS)
    };
    let device = devices.flatten().map(|entry| entry.path()).find(|device| is_gpu(device))?;
    Some(format!("PCI device {}", device.file_name()?.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::traces_below;

    #[test]
    fn a_gpu_leaves_traces() {
        let root = tempfile::tempdir().expect("a folder");
        assert_eq!(traces_below(root.path()), None);
        let device = |name: &str, vendor: &str, class: &str| {
            let device = root.path().join("sys/bus/pci/devices").join(name);
            std::fs::create_dir_all(&device).expect("a folder");
            std::fs::write(device.join("vendor"), vendor).expect("a file");
            std::fs::write(device.join("class"), class).expect("a file");
        };
        device("0000:00:01.0", "0x8086\n", "0x030000\n");
        // Its sound.
        device("0000:01:00.1", "0x10de\n", "0x040300\n");
        assert_eq!(traces_below(root.path()), None);
        device("0000:01:00.0", "0x10de\n", "0x030200\n");
        assert_eq!(traces_below(root.path()).as_deref(), Some("PCI device 0000:01:00.0"));
        std::fs::create_dir_all(root.path().join("dev/nvidiactl")).expect("a folder");
        assert_eq!(traces_below(root.path()).as_deref(), Some("/dev/nvidiactl"));
    }
}
