//! What is asked of an object store.

use super::checksum::{self, Sum};
use super::url::Scheme;
use super::{StoreError, StoreSettings, StoreUrl};
use async_trait::async_trait;
use futures_util::future::try_join_all;
use futures_util::stream::BoxStream;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsAuthorizer, AwsCredentialProvider};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as Key;
use object_store::{
    ClientOptions, Error, GetOptions, GetRange, HeaderMap, HeaderValue, ObjectMeta, ObjectStore, RetryConfig,
};
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_rustls::rustls;

/// How long a store may be silent within an answer.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// The folder of further chat templates.
const TEMPLATES: &str = "additional_chat_templates";
const DENIED_HINT: &str = ": credentials come from the store's variables (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, \
    AWS_SESSION_TOKEN, AWS_REGION, or the role of the machine; AWS_SKIP_SIGNATURE=true for public buckets)";

/// One of the objects of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    /// Without the prefix.
    pub(crate) name: String,
    pub(crate) size: u64,
    /// Another if its bytes are others.
    pub(crate) e_tag: Option<String>,
}

/// A store that answers for one model.
pub(crate) struct Client {
    pub(crate) url: StoreUrl,
    pub(crate) store: Arc<dyn ObjectStore>,
}

impl Client {
    /// For the objects of `url`. Nothing is asked yet.
    pub(crate) fn open(url: &StoreUrl, settings: &StoreSettings) -> Result<Self, StoreError> {
        // Fails where one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        check_endpoint(url, settings)?;
        let opened = match url.scheme {
            Scheme::S3 => amazon(url, settings),
            Scheme::Gs => google(url, settings),
            Scheme::Az => azure(url, settings),
        };
        let store = opened.map_err(|error| StoreError::Settings { url: url.clone(), reason: error.to_string() })?;
        Ok(Self { url: url.clone(), store })
    }

    /// The objects directly below the prefix, and the further chat templates.
    pub(crate) async fn list(&self) -> Result<Vec<Object>, StoreError> {
        let root = parse(&self.url, &self.url.prefix)?;
        let error = |error| self.error(self.url.to_string(), error);
        let listed = self.store.list_with_delimiter(Some(&root)).await.map_err(error)?;
        let mut objects: Vec<Object> = listed.objects.into_iter().filter_map(|meta| object("", meta)).collect();
        for folder in listed.common_prefixes.iter().filter(|folder| folder.filename() == Some(TEMPLATES)) {
            let listed = self.store.list_with_delimiter(Some(folder)).await.map_err(error)?;
            objects.extend(listed.objects.into_iter().filter_map(|meta| object(&format!("{TEMPLATES}/"), meta)));
        }
        // Not every server's list has them.
        let without = objects.iter_mut().filter(|object| object.e_tag.is_none());
        try_join_all(without.map(|object| async move {
            let options = GetOptions { head: true, ..GetOptions::default() };
            object.e_tag = self.get_with(&object.name, options).await?.meta.e_tag;
            Ok::<_, StoreError>(())
        }))
        .await?;
        Ok(objects)
    }

    /// What an object's bytes add up to, if the store says so.
    pub(crate) async fn checksum(&self, object: &Object) -> Result<Option<Sum>, StoreError> {
        let options = GetOptions { head: true, if_match: object.e_tag.clone(), ..GetOptions::default() };
        let answer = self.get_with(&object.name, options).await?;
        Ok(answer.extensions.get::<Headers>().and_then(|headers| checksum::of_headers(&headers.0)))
    }

    /// Some bytes of an object, in pieces. An answer that breaks off is continued by another request.
    pub(crate) async fn get(
        &self,
        object: &Object,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, object_store::Result<bytes::Bytes>>, StoreError> {
        let range = Some(GetRange::Bounded(range));
        let options = GetOptions { range, if_match: object.e_tag.clone(), ..GetOptions::default() };
        let answer = self.get_with(&object.name, options).await?;
        // Not every store holds `if_match` against the object.
        if answer.meta.e_tag != object.e_tag {
            return Err(StoreError::Changed { object: self.url.object(&object.name) });
        }
        Ok(answer.into_stream())
    }

    async fn get_with(&self, name: &str, options: GetOptions) -> Result<object_store::GetResult, StoreError> {
        let key = parse(&self.url, &self.url.key(name))?;
        self.store.get_opts(&key, options).await.map_err(|error| self.error(self.url.object(name), error))
    }

    /// What went wrong with `object`, a URL.
    pub(crate) fn error(&self, object: String, error: Error) -> StoreError {
        match error {
            Error::NotFound { .. } => StoreError::NotFound { object },
            Error::Precondition { .. } => StoreError::Changed { object },
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                StoreError::Denied { object, reason: error.to_string(), hint: DENIED_HINT }
            }
            // Of a list, refusals come as any other error.
            error => {
                let reason = error.to_string();
                if ["401 Unauthorized", "403 Forbidden"].iter().any(|status| reason.contains(status)) {
                    return StoreError::Denied { object, reason, hint: DENIED_HINT };
                }
                StoreError::Failed { object, reason }
            }
        }
    }
}

fn object(folder: &str, meta: ObjectMeta) -> Option<Object> {
    let name = format!("{folder}{}", meta.location.filename()?);
    Some(Object { name, size: meta.size, e_tag: meta.e_tag })
}

pub(crate) fn parse(url: &StoreUrl, key: &str) -> Result<Key, StoreError> {
    Key::parse(key).map_err(|error| StoreError::Settings { url: url.clone(), reason: error.to_string() })
}

/// Says what is to be done where the store's own message would be about a URL's scheme.
fn check_endpoint(url: &StoreUrl, settings: &StoreSettings) -> Result<(), StoreError> {
    let value = |name: &str| settings.variables.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"].into_iter().find_map(value);
    let is_plain = |endpoint: &&String| endpoint.starts_with("http://") && value("AWS_ALLOW_HTTP").is_none();
    match endpoint.filter(is_plain) {
        Some(endpoint) if url.scheme == Scheme::S3 => {
            Err(StoreError::PlainHttp { url: url.clone(), endpoint: endpoint.clone() })
        }
        _ => Ok(()),
    }
}

/// A builder with what holds for all stores, then the variables that it knows.
macro_rules! configured {
    ($builder:ty, $start:literal, $settings:expr, $connector:expr) => {{
        // Its own limit is for a whole answer, which says nothing about a slow line.
        let options = ClientOptions::new().with_timeout_disabled().with_read_timeout(SILENCE_MAX);
        let options = options.with_allow_http($start == "GOOGLE_");
        let retry = RetryConfig { retry_timeout: $settings.retry_limit, ..RetryConfig::default() };
        let builder = <$builder>::new().with_client_options(options).with_retry(retry).with_http_connector($connector);
        let known = $settings.variables.iter().filter(|(name, _)| name.starts_with($start));
        let known = known.filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value)));
        known.fold(builder, |builder, (key, value)| builder.with_config(key, value))
    }};
}

fn amazon(url: &StoreUrl, settings: &StoreSettings) -> object_store::Result<Arc<dyn ObjectStore>> {
    let signer = Arc::new(OnceLock::new());
    let builder = configured!(AmazonS3Builder, "AWS_", settings, Connector { signer: Arc::clone(&signer) });
    let value = |key| builder.get_config_value(&key);
    let region = value(AmazonS3ConfigKey::Region).or_else(|| value(AmazonS3ConfigKey::DefaultRegion));
    let is_signed = value(AmazonS3ConfigKey::SkipSignature).is_none_or(|skip| skip != "true");
    // The sum of a whole object, also of one that is uploaded in parts.
    let builder = match value(AmazonS3ConfigKey::Checksum) {
        Some(_) => builder,
        None => builder.with_checksum_algorithm(object_store::aws::Checksum::CRC64NVME),
    };
    let store = builder.with_bucket_name(&url.bucket).build()?;
    let region = region.unwrap_or_else(|| "us-east-1".to_owned());
    let credentials = is_signed.then(|| Arc::clone(store.credentials()));
    let _ = signer.set(Signer { credentials, region });
    Ok(Arc::new(store))
}

fn google(url: &StoreUrl, settings: &StoreSettings) -> object_store::Result<Arc<dyn ObjectStore>> {
    let builder = configured!(GoogleCloudStorageBuilder, "GOOGLE_", settings, Connector::default());
    Ok(Arc::new(builder.with_bucket_name(&url.bucket).build()?))
}

fn azure(url: &StoreUrl, settings: &StoreSettings) -> object_store::Result<Arc<dyn ObjectStore>> {
    let builder = configured!(MicrosoftAzureBuilder, "AZURE_", settings, Connector::default());
    Ok(Arc::new(builder.with_container_name(&url.bucket).build()?))
}

/// The headers of an answer that has nothing else.
#[derive(Clone)]
struct Headers(HeaderMap);

/// Adds to a question about an object that its checksum is wanted, for which S3 wants to be asked, and keeps the headers of
/// the answer, of which `object_store` passes on only some.
#[derive(Debug, Default)]
struct Connector {
    signer: Arc<OnceLock<Signer>>,
}

#[derive(Debug)]
struct Service {
    inner: HttpClient,
    signer: Arc<OnceLock<Signer>>,
}

/// S3 refuses headers of its own that are not signed.
#[derive(Debug)]
struct Signer {
    credentials: Option<AwsCredentialProvider>,
    region: String,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Service { inner, signer: Arc::clone(&self.signer) }))
    }
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let is_head = request.method() == "HEAD";
        if let Some(signer) = self.signer.get().filter(|_| is_head) {
            signer
                .ask_for_checksum(&mut request)
                .await
                .map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        }
        let mut answer = self.inner.execute(request).await?;
        if is_head {
            let headers = Headers(answer.headers().clone());
            answer.extensions_mut().insert(headers);
        }
        Ok(answer)
    }
}

impl Signer {
    async fn ask_for_checksum(&self, request: &mut HttpRequest) -> object_store::Result<()> {
        request.headers_mut().insert("x-amz-checksum-mode", HeaderValue::from_static("ENABLED"));
        match &self.credentials {
            Some(credentials) => {
                let credential = credentials.get_credential().await?;
                AwsAuthorizer::new(&credential, "s3", &self.region).try_authorize(request, None)
            }
            None => Ok(()),
        }
    }
}
