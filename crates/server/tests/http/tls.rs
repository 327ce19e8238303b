//! TLS on both listeners, and what is said to who speaks the other language.

use crate::authority::{Authority, Files, Identity, TlsClient};
use crate::scripted::{LIMIT, Script, Server};
use server::{Settings, Tls, TlsFiles};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity as TonicIdentity};
use wire::generation as pb;
use wire::generation::generation_client::GenerationClient;

const GET: &[u8] = b"GET /health HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n";

fn settings(files: &Files, client_ca: Option<&Authority>) -> Settings {
    let client_ca = client_ca.map(|authority| files.write("ca.pem", &authority.pem()));
    let files = TlsFiles { cert: files.path("cert.pem"), key: files.path("key.pem"), client_ca };
    Settings { tls: Some(Tls::open(files).expect("they fit together")), ..Settings::default() }
}

async fn serve(settings: Settings) -> Server {
    Script { settings, ..Script::new(&[" yes"]) }.serve().await
}

/// What a client gets for `request`, up to the end, which must be told.
async fn exchange(client: &TlsClient, address: SocketAddr, request: &[u8]) -> std::io::Result<String> {
    let exchange = async {
        let mut stream = client.connect(address).await?;
        stream.write_all(request).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    timeout(LIMIT, exchange).await.expect("it hangs")
}

/// What gRPC answers by https.
async fn get_info(address: SocketAddr, trusted: &Authority, identity: Option<&Identity>) -> Result<(), String> {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(trusted.pem()));
    if let Some(Identity { cert, key }) = identity {
        tls = tls.identity(TonicIdentity::from_pem(cert, key));
    }
    let endpoint = Endpoint::from_shared(format!("https://{address}")).expect("an address").tls_config(tls);
    let call = async {
        let channel = endpoint.expect("a configuration").connect().await.map_err(|error| format!("{error:?}"))?;
        let answer = GenerationClient::new(channel).get_info(pb::GetInfoRequest {}).await;
        answer.map(|_| ()).map_err(|status| format!("{status:?}"))
    };
    timeout(LIMIT, call).await.expect("it hangs")
}

#[tokio::test]
async fn both_listeners_speak_tls_and_the_protocols_that_fit() {
    let authority = Authority::new("ours");
    let files = Files::new(&authority.identity());
    let server = serve(settings(&files, None)).await;
    for version in [&TLS12, &TLS13] {
        let client = TlsClient::speaking(&[version], &[&authority], None, &["http/1.1"]);
        let answer = exchange(&client, server.address, GET).await.expect("an answer and its end");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }
    for (address, offered, chosen) in [
        (server.address, &["http/1.1", "h2"][..], Some("h2")),
        (server.address, &[], None),
        (server.grpc, &["http/1.1", "h2"], Some("h2")),
    ] {
        let stream = TlsClient::new(&[&authority], None, offered).connect(address).await.expect("TLS");
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen.map(str::as_bytes), "{offered:?}");
    }
    for (address, offered) in [(server.address, "spdy/3"), (server.grpc, "http/1.1")] {
        let refused = TlsClient::new(&[&authority], None, &[offered]).connect(address).await.expect_err("not spoken");
        assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    }
    get_info(server.grpc, &authority, None).await.expect("an answer");
    get_info(server.grpc, &Authority::new("another"), None).await.expect_err("who is not known is not trusted");
}

/// Everything that a plain connection gets, and that it is closed in order.
async fn plain(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(request).await.expect("it reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("it is closed in order");
        answer
    };
    timeout(LIMIT, exchange).await.expect("it hangs")
}

#[tokio::test]
async fn a_port_of_tls_says_so_to_who_does_not_speak_it() {
    let files = Files::new(&Authority::new("ours").identity());
    let server = serve(settings(&files, None)).await;
    for address in [server.address, server.grpc] {
        let answer = String::from_utf8(plain(address, GET).await).expect("UTF-8");
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nthis port speaks TLS: ask it by https\n"), "{answer}");
        let body = [&b"POST /generate HTTP/1.1\r\nContent-Length: 60000\r\n\r\n"[..], &[b'a'; 60_000]].concat();
        assert!(plain(address, &body).await.starts_with(b"HTTP/1.1 400 "), "the answer outlives what was not read");
        // Settings, and the end of the connection.
        let answer = plain(address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
        assert_eq!((answer[3], answer[9 + 3]), (4, 7), "{answer:?}");
        assert!(answer.ends_with(b"\0\0\0\x0cthis port speaks TLS: ask it by https"), "{answer:?}");
    }
    let channel = Endpoint::from_shared(format!("http://{}", server.grpc)).expect("an address").connect_lazy();
    let status = GenerationClient::new(channel).get_info(pb::GetInfoRequest {}).await.expect_err("it speaks TLS");
    assert!(format!("{status:?}").contains("speaks TLS"), "{status:?}");
}

#[tokio::test]
async fn a_plain_port_ends_a_handshake_with_an_alert() {
    let server = serve(Settings::default()).await;
    for address in [server.address, server.grpc] {
        let error = TlsClient::new(&[], None, &[]).connect(address).await.expect_err("it speaks no TLS");
        assert!(error.to_string().contains("HandshakeFailure"), "{error}");
        // The next one is served.
        assert!(!server.get("/health").await.head.is_empty());
    }
}

#[tokio::test]
async fn clients_show_a_certificate_of_the_authority_that_is_asked_for() {
    let (ours, theirs, another) = (Authority::new("ours"), Authority::new("theirs"), Authority::new("another"));
    let files = Files::new(&ours.identity());
    let server = serve(settings(&files, Some(&theirs))).await;
    let (right, wrong) = (theirs.identity(), another.identity());
    for version in [&TLS12, &TLS13] {
        let ask = async |identity: Option<&Identity>| {
            let client = TlsClient::speaking(&[version], &[&ours], identity, &["http/1.1"]);
            exchange(&client, server.address, GET).await
        };
        let answer = ask(Some(&right)).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        for identity in [None, Some(&wrong), Some(&ours.identity())] {
            let error = ask(identity).await.expect_err("no such certificate").to_string();
            // As it came, or as the connection that was closed behind it.
            assert!(error.contains("alert") || error.contains("reset") || error.contains("pipe"), "{error}");
        }
    }
    get_info(server.grpc, &ours, Some(&right)).await.expect("an answer");
    for identity in [None, Some(&wrong)] {
        get_info(server.grpc, &ours, identity).await.expect_err("no such certificate");
    }
}

/// Waits until the server shows a certificate of `authority`.
async fn until_shown(address: SocketAddr, authority: &Authority) {
    let client = TlsClient::new(&[authority], None, &["http/1.1"]);
    for _ in 0..600 {
        if client.connect(address).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the files were not read again within 30 s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_under_load_without_a_failed_call() {
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let (old, new) = (first.identity(), second.identity());
    let files = Files::new(&old);
    let server = serve(settings(&files, None)).await;
    let (address, ended) = (server.address, Arc::new(AtomicBool::new(false)));
    let both = TlsClient::new(&[&first, &second], None, &["http/1.1"]);
    let calls = tokio::spawn({
        let ended = ended.clone();
        async move {
            let mut calls = 0;
            while !ended.load(Ordering::Relaxed) {
                let answer =
                    exchange(&both, address, GET).await.unwrap_or_else(|error| panic!("call {calls}: {error}"));
                assert!(answer.starts_with("HTTP/1.1 200 OK"), "call {calls}: {answer}");
                calls += 1;
            }
            calls
        }
    });
    // A pair that does not fit, and files that are none: what was there before is shown.
    for (name, text) in [("cert.pem", &*new.cert), ("cert.pem", "none"), ("key.pem", "")] {
        files.write(name, text);
        tokio::time::sleep(Duration::from_millis(2500)).await;
        until_shown(address, &first).await;
    }
    // One after the other, and each in halves.
    for (name, text) in [("cert.pem", &new.cert), ("key.pem", &new.key)] {
        files.write(name, &text[..text.len() / 2]);
        tokio::time::sleep(Duration::from_millis(300)).await;
        files.write(name, text);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    until_shown(address, &second).await;
    get_info(server.grpc, &second, None).await.expect("the other listener has it, too");
    ended.store(true, Ordering::Relaxed);
    let calls: u32 = calls.await.expect("no call failed");
    assert!(calls > 20, "{calls}");
}

/// Who does not begin TLS, or not wholly, holds up nobody, and is gone after a time.
#[tokio::test]
async fn handshakes_that_do_not_end_hold_up_nobody() {
    let authority = Authority::new("ours");
    let files = Files::new(&authority.identity());
    let server = serve(settings(&files, None)).await;
    let mut waiting = Vec::new();
    for address in [server.address, server.grpc] {
        for begun in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
            for _ in 0..20 {
                let mut stream = TcpStream::connect(address).await.expect("it listens");
                stream.write_all(begun).await.expect("it reads");
                waiting.push(stream);
            }
        }
    }
    let client = TlsClient::new(&[&authority], None, &["http/1.1"]);
    let answer = exchange(&client, server.address, GET).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    get_info(server.grpc, &authority, None).await.expect("an answer");
    for mut stream in waiting {
        // It may be closed in order or, where something was not read, reset.
        let mut rest = Vec::new();
        let _ = timeout(LIMIT, stream.read_to_end(&mut rest)).await.expect("it is closed");
    }
}

/// A peer that reads nothing loses its connection, also where TLS still holds what it was sent.
#[tokio::test]
async fn a_reader_that_stands_still_loses_its_connection() {
    let authority = Authority::new("ours");
    let files = Files::new(&authority.identity());
    let stall_limit = Duration::from_secs(1);
    let server = serve(Settings { stall_limit, ..settings(&files, None) }).await;
    let client = TlsClient::new(&[&authority], None, &["http/1.1"]);
    let mut stream = client.connect(server.address).await.expect("TLS");
    // Together more than the system holds of what is not read.
    let request = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: server\r\n\r\n".repeat(40);
    stream.write_all(&request).await.expect("it reads");
    stream.flush().await.expect("it reads");
    let (tcp, _) = stream.get_mut();
    let closed = async {
        while tcp.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(LIMIT, closed).await.expect("it is closed");
}

#[tokio::test]
async fn what_cannot_be_used_is_named() {
    let (ours, another) = (Authority::new("ours").identity(), Authority::new("another").identity());
    let files = Files::new(&ours);
    let open = |client_ca| {
        let files = TlsFiles { cert: files.path("cert.pem"), key: files.path("key.pem"), client_ca };
        Tls::open(files).expect_err("it cannot be used").to_string()
    };
    let none = files.write("none.pem", "nothing");
    let said = open(Some(none));
    assert!(said.contains("--tls-client-ca") && said.contains("it has no certificate"), "{said}");
    files.write("key.pem", &another.key);
    let said = open(None);
    assert!(said.contains("--tls-key") && said.contains("cannot be used together"), "{said}");
    files.write("key.pem", &ours.cert);
    let said = open(None);
    assert!(said.contains("--tls-key") && said.contains("it has no private key"), "{said}");
    files.write("cert.pem", &ours.key);
    let said = open(None);
    assert!(said.contains("--tls-cert") && said.contains("it has no certificate"), "{said}");
}

/// A handshake has its place among the connections from its first byte on.
#[tokio::test]
async fn handshakes_count_as_connections() {
    let authority = Authority::new("ours");
    let files = Files::new(&authority.identity());
    let server = serve(Settings { connections_max: 2, ..settings(&files, None) }).await;
    let mut idle = Vec::new();
    for _ in 0..2 {
        idle.push(TcpStream::connect(server.address).await.expect("it listens"));
    }
    let client = TlsClient::new(&[&authority], None, &["http/1.1"]);
    let mut third = tokio::spawn(async move { exchange(&client, server.address, GET).await });
    // The two are closed after 10 s.
    assert!(timeout(Duration::from_millis(500), &mut third).await.is_err(), "there is no room for it");
    get_info(server.grpc, &authority, None).await.expect("the other listener has its own");
    drop(idle.pop());
    let answer = timeout(LIMIT, third).await.expect("it hangs").expect("no panic").expect("there is room");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}
