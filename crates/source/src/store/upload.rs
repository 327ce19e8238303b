//! Files that are written to an object store.

use super::client::{Client, parse};
use super::{StoreError, StoreSettings, StoreUrl};
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt, WriteMultipart};
use std::io::{self, Write};
use std::sync::Arc;
use tokio::runtime::Handle;

/// A store has 10,000 parts of an object at most.
const PARTS_MAX: u64 = 9_000;
/// Files up to this size are sent by one request.
const PART_BYTES_LEAST: u64 = 16 << 20;
/// Parts of a file that are under way at once.
const PARTS_IN_FLIGHT: usize = 4;

/// Writes files to an object store. An object appears once it has been written whole.
pub struct Uploads {
    client: Arc<Client>,
    runtime: Handle,
}

/// A file that is being written. Must not be used within the tokio runtime.
pub struct Upload {
    client: Arc<Client>,
    name: String,
    key: Key,
    content: Content,
    runtime: Handle,
}

enum Content {
    Small(Vec<u8>),
    Parts(WriteMultipart),
}

impl Uploads {
    /// To `url`, over the runtime in which this is called.
    ///
    /// # Errors
    ///
    /// If there is a model already, or the store cannot be asked.
    pub async fn open(url: &StoreUrl, settings: &StoreSettings) -> Result<Self, StoreError> {
        let client = Client::open(url, settings)?;
        let listed = client.list().await?;
        let is_of_model =
            |name: &str| name == "config.json" || name.ends_with(".safetensors") || name.ends_with(".bin");
        match listed.into_iter().find(|object| is_of_model(&object.name)) {
            Some(object) => Err(StoreError::Taken { url: url.clone(), found: object.name }),
            None => Ok(Self { client: Arc::new(client), runtime: Handle::current() }),
        }
    }

    /// A new object, of `bytes` bytes. Must not be called within the tokio runtime.
    ///
    /// # Errors
    ///
    /// If the store refuses.
    pub fn create(&self, name: &str, bytes: u64) -> io::Result<Upload> {
        let (client, runtime) = (Arc::clone(&self.client), self.runtime.clone());
        let key = parse(&client.url, &client.url.key(name)).map_err(io::Error::other)?;
        let content = if bytes <= PART_BYTES_LEAST {
            Content::Small(Vec::with_capacity(bytes as usize))
        } else {
            let begun = runtime.block_on(client.store.put_multipart(&key));
            let begun = begun.map_err(|error| failed(&client, name, error))?;
            let part = PART_BYTES_LEAST.max(bytes.div_ceil(PARTS_MAX)) as usize;
            Content::Parts(WriteMultipart::new_with_chunk_size(begun, part))
        };
        Ok(Upload { client, name: name.to_owned(), key, content, runtime })
    }
}

fn failed(client: &Client, name: &str, error: object_store::Error) -> io::Error {
    io::Error::other(client.error(client.url.object(name), error))
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.content {
            Content::Small(content) => content.extend_from_slice(bytes),
            Content::Parts(parts) => {
                let capacity = self.runtime.block_on(parts.wait_for_capacity(PARTS_IN_FLIGHT));
                capacity.map_err(|error| failed(&self.client, &self.name, error))?;
                let _runtime = self.runtime.enter();
                parts.write(bytes);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Upload {
    /// All has been written.
    ///
    /// # Errors
    ///
    /// If not all of it has arrived.
    pub fn finish(self) -> io::Result<()> {
        let Self { client, name, key, content, runtime } = self;
        let sent = match content {
            Content::Small(content) => runtime.block_on(client.store.put(&key, content.into())),
            Content::Parts(parts) => runtime.block_on(parts.finish()),
        };
        sent.map(drop).map_err(|error| failed(&client, &name, error))
    }
}
