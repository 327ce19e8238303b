//! Which NVIDIA GPUs this machine has, and whether they will do. Nothing here makes a context.

use crate::device::{SharedMemory, describe};
use cudarc::driver::sys::CUdevice_attribute;
use cudarc::driver::{DriverError, result, sys};

/// CUDA 12.2, which driver R535 brought.
pub const DRIVER_VERSION_MIN: i32 = 12_020;
/// Ampere: tensor cores for bf16, and asynchronous copies.
pub const CAPABILITY_MIN: (i32, i32) = (8, 0);

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuInfo {
    /// Its number.
    pub ordinal: usize,
    /// As the driver calls it.
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// All of its memory.
    pub memory_bytes: u64,
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Their shared memory.
    pub shared: SharedMemory,
    /// Its place on the PCI bus, as in `0000:10:1C.0`.
    pub pci_bus_id: String,
}

/// The GPUs of this machine, by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpus {
    /// Every GPU that the driver lists, by ordinal.
    pub all: Vec<GpuInfo>,
    /// The CUDA version of the driver, as in 12020 for 12.2.
    pub driver_version: i32,
}

/// Why the GPUs cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum DiscoverError {
    /// There is no driver's library.
    #[error("no NVIDIA driver: libcuda.so cannot be opened; install driver R535 or later, or use --backend cpu")]
    NoDriver,
    /// The driver is too old.
    #[error(
        "the NVIDIA driver has CUDA {}.{}, expected {}.{} or later (driver R535)",
        .found / 1000, .found % 1000 / 10, DRIVER_VERSION_MIN / 1000, DRIVER_VERSION_MIN % 1000 / 10
    )]
    OldDriver {
        /// Its CUDA version, as in 11080 for 11.8.
        found: i32,
    },
    /// The driver finds no GPU.
    #[error("the NVIDIA driver finds no GPU ({message}); is CUDA_VISIBLE_DEVICES set, or the container without GPUs?")]
    NoGpu { message: String },
    /// A GPU is too old.
    #[error(
        "GPU {ordinal} ({name}) has compute capability {}.{}, expected {}.{} or later",
        .found.0, .found.1, CAPABILITY_MIN.0, CAPABILITY_MIN.1
    )]
    OldGpu {
        ordinal: usize,
        /// As the driver calls it.
        name: String,
        found: (i32, i32),
    },
    /// There are not enough of them.
    #[error("--tensor-parallel {ranks} needs {ranks} GPUs, and the driver finds {found}")]
    FewGpus { ranks: usize, found: usize },
    /// Two GPUs cannot access each other's memory.
    #[error("GPU {a} cannot access the memory of GPU {b}")]
    NoPeerAccess { a: usize, b: usize },
    /// The driver reports an error.
    #[error("the NVIDIA driver, asked for {what}: {message}")]
    Driver { what: &'static str, message: String },
}

fn driver(what: &'static str) -> impl Fn(DriverError) -> DiscoverError {
    move |error| DiscoverError::Driver { what, message: describe(error) }
}

/// Finds the GPUs.
///
/// # Errors
///
/// [`DiscoverError`]: no driver, one that is too old, no GPU, or the driver's own.
pub fn discover() -> Result<Gpus, DiscoverError> {
    // SAFETY: opening the driver's library runs its initializers alone.
    if !unsafe { sys::is_culib_present() } {
        return Err(DiscoverError::NoDriver);
    }
    let mut found = 0;
    // SAFETY: the library is there; the version may be asked for before anything else.
    unsafe { sys::cuDriverGetVersion(&mut found) }.result().map_err(driver("its version"))?;
    if found < DRIVER_VERSION_MIN {
        return Err(DiscoverError::OldDriver { found });
    }
    result::init().map_err(|error| match error.0 {
        sys::CUresult::CUDA_ERROR_NO_DEVICE => DiscoverError::NoGpu { message: describe(error) },
        _ => driver("its start")(error),
    })?;
    let count = result::device::get_count().map_err(driver("the number of GPUs"))?;
    if count == 0 {
        return Err(DiscoverError::NoGpu { message: "it counts 0".to_owned() });
    }
    let all = (0..count as usize).map(gpu).collect::<Result<_, _>>()?;
    Ok(Gpus { all, driver_version: found })
}

fn gpu(ordinal: usize) -> Result<GpuInfo, DiscoverError> {
    let device = result::device::get(ordinal as i32).map_err(driver("a GPU"))?;
    let attribute = |attribute| {
        // SAFETY: the device is the driver's own.
        unsafe { result::device::get_attribute(device, attribute) }.map_err(driver("what a GPU is"))
    };
    let major = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let multiprocessors = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let shared = SharedMemory {
        multiprocessor_bytes: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?
            as usize,
        block_bytes_max: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize,
        reserved_bytes: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK)? as usize,
    };
    // SAFETY: the device is the driver's own.
    let memory = unsafe { result::device::total_mem(device) }.map_err(driver("a GPU's memory"))?;
    Ok(GpuInfo {
        ordinal,
        name: result::device::get_name(device).map_err(driver("a GPU's name"))?,
        capability: (major, minor),
        memory_bytes: memory as u64,
        multiprocessors: multiprocessors as usize,
        shared,
        pci_bus_id: pci_bus_id(device).map_err(driver("a GPU's place on the bus"))?,
    })
}

fn pci_bus_id(device: sys::CUdevice) -> Result<String, DriverError> {
    let mut text = [0; 32];
    // SAFETY: the driver writes at most so many bytes, with a zero at the end.
    unsafe { sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), text.len() as i32, device) }.result()?;
    Ok(text.iter().take_while(|&&byte| byte != 0).map(|&byte| char::from(byte.cast_unsigned())).collect())
}

impl Gpus {
    /// The first `ranks` GPUs. Each must be new enough.
    ///
    /// # Errors
    ///
    /// [`DiscoverError::FewGpus`], [`DiscoverError::OldGpu`].
    pub fn for_ranks(&self, ranks: usize) -> Result<&[GpuInfo], DiscoverError> {
        let found = self.all.len();
        let chosen = self.all.get(..ranks).ok_or(DiscoverError::FewGpus { ranks, found })?;
        match chosen.iter().find(|gpu| gpu.capability < CAPABILITY_MIN) {
            Some(GpuInfo { ordinal, name, capability, .. }) => {
                Err(DiscoverError::OldGpu { ordinal: *ordinal, name: name.clone(), found: *capability })
            }
            None => Ok(chosen),
        }
    }

    /// Whether each GPU of `ranks` ranks can access the memory of every other.
    ///
    /// # Errors
    ///
    /// [`DiscoverError::NoPeerAccess`], and as [`Gpus::for_ranks`].
    pub fn check_peer_access(&self, ranks: usize) -> Result<(), DiscoverError> {
        let ordinals: Vec<usize> = self.for_ranks(ranks)?.iter().map(|gpu| gpu.ordinal).collect();
        for &a in &ordinals {
            for &b in ordinals.iter().filter(|&&b| b != a) {
                let [device, peer] = [a, b].map(|ordinal| result::device::get(ordinal as i32));
                let (device, peer) = (device.map_err(driver("a GPU"))?, peer.map_err(driver("a GPU"))?);
                let mut can = 0;
                // SAFETY: both are devices of the driver.
                let asked = unsafe { sys::cuDeviceCanAccessPeer(&mut can, device, peer) };
                asked.result().map_err(driver("access between GPUs"))?;
                if can == 0 {
                    return Err(DiscoverError::NoPeerAccess { a, b });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus(capabilities: &[(i32, i32)]) -> Gpus {
        let gpu = |(ordinal, &capability): (usize, &(i32, i32))| GpuInfo {
            ordinal,
            name: format!("GPU{ordinal}"),
            capability,
            memory_bytes: 1000,
            multiprocessors: 100,
            shared: SharedMemory {
                multiprocessor_bytes: 100 << 10,
                block_bytes_max: 99 << 10,
                reserved_bytes: 1 << 10,
            },
            pci_bus_id: format!("0000:{:02X}:00.0", ordinal + 1),
        };
        Gpus { all: capabilities.iter().enumerate().map(gpu).collect(), driver_version: DRIVER_VERSION_MIN }
    }

    #[test]
    fn every_rank_needs_a_gpu_that_is_new_enough() {
        let gpus = gpus(&[(8, 0), (9, 0), (7, 5)]);
        assert_eq!(gpus.for_ranks(2).unwrap().len(), 2);
        let old = gpus.for_ranks(3).unwrap_err().to_string();
        assert!(old.contains("GPU 2") && old.contains("7.5, expected 8.0"), "{old}");
        let few = gpus.for_ranks(4).unwrap_err().to_string();
        assert!(few.contains("needs 4 GPUs") && few.contains("finds 3"), "{few}");
    }

    #[test]
    fn an_old_driver_is_told_in_versions() {
        let text = DiscoverError::OldDriver { found: 11_080 }.to_string();
        assert!(text.contains("CUDA 11.8, expected 12.2"), "{text}");
    }
}
