//! What is kept out.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use longcat_serve::{Limits, ServeError, ServeOptions, Server};
use serde_json::json;

use crate::client::Client;
use crate::media::{mp4, png, tree};
use crate::server::{Local, quick};

const JSON: (&str, &str) = ("Content-Type", "application/json");
const BODY: &[u8] = b"{\"prompt\": \"a\", \"frames\": 5}";

#[test]
fn other_hosts_and_origins_are_refused() {
    let server = Local::start(quick());
    let mut client = server.client();
    let address = server.address.to_string();
    for (host, allowed) in [
        (address.as_str(), true),
        ("localhost:8188", true),
        ("LOCALHOST", true),
        ("[::1]:8188", true),
        ("127.0.0.1", true),
        ("evil.example", false),
        ("127.0.0.1.evil.example", false),
        ("localhost.evil.example:80", false),
        ("192.168.0.7:8188", false),
        ("", false),
    ] {
        let status = client
            .send("GET", "/v1/options", &[("Host", host)], b"")
            .status;
        assert_eq!(status == 200, allowed, "{host}: {status}");
        assert!(status == 200 || status == 403);
    }
    let own = format!("http://{address}");
    for (headers, allowed) in [
        (&[("Origin", own.as_str())][..], true),
        (
            &[("Origin", own.as_str()), ("Sec-Fetch-Site", "same-origin")],
            true,
        ),
        (&[("Origin", "http://evil.example")], false),
        (&[("Origin", "null")], false),
        (&[("Origin", "http://127.0.0.1:1")], false),
        (&[("Sec-Fetch-Site", "cross-site")], false),
        (&[("Sec-Fetch-Site", "same-site")], false),
        (&[("Sec-Fetch-Site", "none")], true),
    ] {
        let headers = [&[JSON][..], headers].concat();
        let reply = client.send("POST", "/v1/videos", &headers, BODY);
        assert_eq!(reply.status == 200, allowed, "{headers:?}");
        let deleted = client
            .send("DELETE", "/v1/videos/none", &headers, b"")
            .status;
        assert_eq!(deleted == 404, allowed, "{headers:?}");
    }
    // Nothing is shared with other sites.
    let reply = client.send(
        "GET",
        "/v1/videos",
        &[("Origin", "http://evil.example")],
        b"",
    );
    assert_eq!(reply.header("access-control-allow-origin"), None);
    assert_eq!(
        reply.header("cross-origin-resource-policy"),
        Some("same-origin")
    );
    let page = client.get("/");
    assert!(
        page.header("content-security-policy")
            .unwrap()
            .contains("frame-ancestors 'none'")
    );
}

#[test]
fn a_token_is_asked_for_and_a_page_gets_it_as_a_cookie() {
    let server = Local::with(quick(), |options| {
        options.token = Some("a-secret-token".into())
    });
    let mut client = server.client();
    let status = |client: &mut Client, headers: &[(&str, &str)]| {
        client.send("GET", "/v1/videos", headers, b"").status
    };
    for (headers, expected) in [
        (&[][..], 401),
        (&[("Authorization", "Bearer a-secret-token")], 200),
        (&[("Authorization", "bearer a-secret-token")], 200),
        (&[("Authorization", "Bearer a-secret-tokem")], 401),
        (&[("Authorization", "Bearer a-secret")], 401),
        (&[("Authorization", "Basic a-secret-token")], 401),
        (&[("Cookie", "a=b; longcat_token=a-secret-token")], 200),
        (&[("Cookie", "longcat_token=wrong")], 401),
        // Whoever knows the token may call the server by any name.
        (
            &[
                ("Authorization", "Bearer a-secret-token"),
                ("Host", "gpu.lan"),
            ],
            200,
        ),
    ] {
        assert_eq!(status(&mut client, headers), expected, "{headers:?}");
    }
    assert_eq!(client.get("/health").status, 200);
    assert_eq!(client.get("/metrics").status, 401);
    let asks = client.raw("GET", "/", &[], b"").unwrap();
    assert!(asks.status == 401 && String::from_utf8_lossy(&asks.body).contains("name=\"token\""));
    assert_eq!(
        client.raw("GET", "/?token=wrong", &[], b"").unwrap().status,
        401
    );
    let page = client
        .raw("GET", "/?token=a-secret-token", &[], b"")
        .unwrap();
    assert_eq!((page.status, page.header("location")), (303, Some("/")));
    let cookie = page.header("set-cookie").unwrap();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"),
        "{cookie}"
    );
    let pair = cookie.split(';').next().unwrap();
    assert_eq!(
        client.send("GET", "/", &[("Cookie", pair)], b"").status,
        200
    );
}

#[test]
fn servers_that_cannot_be_safe_do_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let bind = |change: &dyn Fn(&mut ServeOptions)| {
        let mut options = ServeOptions {
            port: 0,
            ..ServeOptions::new(folder.path())
        };
        change(&mut options);
        Server::bind(options, Arc::new(quick()))
    };
    let open = bind(&|options| options.host = IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    assert!(matches!(open.err(), Some(ServeError::NoToken(_))));
    for token in ["short", "with space in it", "semi;colon-in-it", ""] {
        let weak = bind(&|options| options.token = Some(token.into()));
        assert!(matches!(weak.err(), Some(ServeError::Token)), "{token}");
    }
    let first = bind(&|_| {}).unwrap();
    let second = bind(&|_| {});
    assert!(matches!(second.err(), Some(ServeError::InUse(_))));
    let taken = bind(&|options| options.port = first.address().port());
    assert!(taken.is_err());
}

#[test]
fn uploads_beyond_the_limits_are_refused_and_not_kept() {
    let server = Local::with(quick(), |options| {
        options.limits = Limits {
            image_bytes: 50_000,
            video_bytes: 60_000,
            video_seconds: 2,
            picture_pixels: 100 * 100,
            video_pixels: 64 * 64 * 4,
            adapter_bytes: 1000,
            ..Limits::default()
        };
    });
    let mut client = server.client();
    let before = tree(&server.data());
    let (small, large) = (png(40, 40), png(101, 100));
    let clip = mp4(32, 9);
    let long = mp4(32, 50);
    let wide = mp4(128, 3);
    let many = mp4(64, 5);
    let cut = &small[..small.len() - 20];
    let cut_clip = &clip[..clip.len() / 2];
    // One that says that it has 60000 x 60000 pixels.
    let mut bomb = small.clone();
    bomb[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let noise = vec![0xabu8; 70_000];
    let playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n";
    for (name, contents, status) in [
        ("image", &large[..], 422),
        ("image", cut, 422),
        ("image", &bomb, 422),
        ("image", &clip, 422),
        ("image", &noise[..55_000], 413),
        ("image", b"", 400),
        ("video", &small, 422),
        ("video", &long, 422),
        ("video", &wide, 422),
        ("video", &many, 422),
        ("video", cut_clip, 422),
        ("video", &noise, 413),
        ("video", playlist, 422),
        (
            "input_reference",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            422,
        ),
    ] {
        let parts = [(name, Some("a"), contents), ("prompt", None, &b"a"[..])];
        let reply = client.post_form("/v1/videos", &parts);
        let message = reply.message();
        assert_eq!(
            (reply.status, reply.param()),
            (status, name.into()),
            "{message}"
        );
        assert!(
            !message.contains(&*server.data().to_string_lossy()),
            "{message}"
        );
    }
    let twice = [
        ("image", Some("a"), &small[..]),
        ("video", Some("b"), &clip),
        ("prompt", None, b"a"),
    ];
    assert_eq!(client.post_form("/v1/videos", &twice).status, 400);
    let adapter = client.post_form(
        "/v1/adapters",
        &[("file", Some("a.safetensors"), &noise[..2000])],
    );
    assert_eq!(adapter.status, 413);
    assert_eq!(tree(&server.data()), before);
    assert_eq!(client.get("/v1/videos").json()["total"], 0);
}

#[test]
fn no_path_of_a_client_reaches_the_file_system() {
    let server = Local::start(quick());
    let mut client = server.client();
    fs::write(server.data().join("secret.mp4"), b"secret").unwrap();
    let made = client.make(&json!({"prompt": "a"}))["id"]
        .as_str()
        .unwrap()
        .to_string();
    for id in [
        "..",
        "%2e%2e",
        "..%2f..%2fsecret.mp4",
        "%2e%2e%2fvideos%2f",
        "..%5csecret.mp4",
        "%00",
        "video_%00",
        &format!("{made}%2f..%2f{made}"),
        &format!("{made}%00"),
        &format!("./{made}"),
        &made.to_uppercase(),
        "video_zzzzzzzzzzzzzzzzzzzzzzzz",
        "*",
        "%ff%fe",
        "' OR 1=1 --",
    ] {
        let id = id.replace(' ', "%20");
        for what in [
            "",
            "/content",
            "/latents",
            "/settings",
            "/thumbnail",
            "/preview",
            "/input",
            "/events",
        ] {
            let reply = client
                .raw("GET", &format!("/v1/videos/{id}{what}"), &[], b"")
                .unwrap();
            assert!(
                matches!(reply.status, 400 | 404),
                "{id}{what}: {}",
                reply.status
            );
            assert!(!reply.body.windows(6).any(|w| w == b"secret"));
        }
        let reply = client
            .raw("DELETE", &format!("/v1/adapters/{id}"), &[], b"")
            .unwrap();
        assert!(matches!(reply.status, 400 | 404), "{id}");
        let reply = client.raw("GET", &format!("/page/{id}"), &[], b"").unwrap();
        assert!(matches!(reply.status, 400 | 404), "{id}");
    }
    assert_eq!(client.video(&made)["status"], "completed");
}

#[test]
fn forms_of_ever_more_parts_are_refused() {
    let server = Local::start(quick());
    let names: Vec<String> = (0..20_000).map(|number| format!("p{number}")).collect();
    let parts: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), None, &b""[..]))
        .collect();
    let reply = server.client().post_form("/v1/videos", &parts);
    assert_eq!(reply.status, 413, "{}", reply.json());
}
