//! Git LFS pointers, which stand in a clone where a file was not fetched.

/// Whether a file with this content is such a pointer (Git LFS specification, version 1).
pub(crate) fn is_lfs_pointer(content: &[u8]) -> bool {
    content.starts_with(b"version https://git-lfs.github.com/spec/")
}
