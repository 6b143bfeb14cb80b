//! What goes wrong on the way, and what is said and kept then.

use std::fs;
use std::net::TcpListener;
use std::ops::ControlFlow;

use longcat_hub::{Hub, HubError, HubSettings, PullOptions, Selection};

use super::pull::{files, folder, pull, pull_watched, unfinished, weights};
use super::server::{Faults, Server, quick, repo, sha256};

const WEIGHTS: &str = "dit/a b.safetensors";

fn breaking(after: usize, times: usize) -> Faults {
    Faults {
        breaks: Some((WEIGHTS.into(), after, times)),
        ..Faults::default()
    }
}

/// First bytes of the parts of the weights that were asked for.
fn ranges(server: &Server) -> Vec<Option<usize>> {
    let requests = server.requests().into_iter();
    requests.filter(|r| r.storage).map(|r| r.range).collect()
}

#[test]
fn a_broken_connection_goes_on_where_it_broke() {
    let content = weights(2_000_000);
    let server = Server::new(&files(&content), breaking(600_000, 2));
    let mut notes = Vec::new();
    let snapshot = pull_watched(&server.hub(), &mut |progress| {
        notes.extend(progress.notes.clone());
        ControlFlow::Continue(())
    });
    assert_eq!(
        fs::read(snapshot.unwrap().path.join(WEIGHTS)).unwrap(),
        content
    );
    assert_eq!(ranges(&server), [None, Some(600_000), Some(1_200_000)]);
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(
        notes[0].contains("safetensors") && !notes[0].contains("secret"),
        "{notes:?}"
    );
}

#[test]
fn a_later_run_goes_on_where_an_earlier_one_gave_up() {
    let content = weights(2_000_000);
    let server = Server::new(&files(&content), breaking(0, 100));
    // Bytes come the first time only.
    server.set_faults(breaking(600_000, 1));
    let options = PullOptions {
        retries: 0,
        ..quick()
    };
    let hub = Hub::new(server.settings(), options);
    let error = pull(&hub).unwrap_err();
    assert!(matches!(error, HubError::Connection { .. }), "{error}");
    assert!(
        error.to_string().contains("it goes on where it stopped"),
        "{error}"
    );
    assert_eq!(
        fs::read(unfinished(&server, &content)).unwrap(),
        content[..600_000]
    );
    assert!(!folder(&server).join("refs/main").exists());
    let error = hub.cache().find(&repo()).unwrap_err();
    assert!(matches!(error, HubError::Partial { .. }), "{error}");
    server.forget_requests();
    let plan = hub.plan(&repo(), &Selection::default()).unwrap();
    assert_eq!(plan.to_come(), 1_400_000);
    pull(&hub).unwrap();
    assert_eq!(ranges(&server), [Some(600_000)]);
    assert!(!unfinished(&server, &content).exists());
}

#[test]
fn a_server_without_parts_sends_the_whole() {
    let content = weights(2_000_000);
    let faults = Faults {
        no_ranges: true,
        ..breaking(600_000, 1)
    };
    let server = Server::new(&files(&content), faults);
    let mut most = 0;
    let snapshot = pull_watched(&server.hub(), &mut |progress| {
        most = most.max(progress.done);
        assert!(progress.done <= progress.total);
        ControlFlow::Continue(())
    });
    assert_eq!(
        fs::read(snapshot.unwrap().path.join(WEIGHTS)).unwrap(),
        content
    );
    assert_eq!(most, 2_000_000 + 15);
}

#[test]
fn a_wrong_checksum_is_an_error_and_nothing_of_it_is_kept() {
    let content = weights(500_000);
    let faults = Faults {
        wrong: Some(WEIGHTS.into()),
        ..Faults::default()
    };
    let server = Server::new(&files(&content), faults);
    let error = pull(&server.hub()).unwrap_err();
    let HubError::Checksum { url, expected, .. } = &error else {
        panic!("{error}");
    };
    assert!(url.ends_with("/dit/a%20b.safetensors"), "{url}");
    assert_eq!(*expected, sha256(&content));
    assert!(!unfinished(&server, &content).exists());
    assert!(
        !folder(&server)
            .join("blobs")
            .join(sha256(&content))
            .exists()
    );
    server.set_faults(Faults::default());
    pull(&server.hub()).unwrap();
}

#[test]
fn a_small_file_with_a_wrong_checksum_is_one_too() {
    let content = weights(1000);
    let faults = Faults {
        wrong: Some("config.json".into()),
        ..Faults::default()
    };
    let error = pull(&Server::new(&files(&content), faults).hub()).unwrap_err();
    assert!(matches!(error, HubError::Checksum { .. }), "{error}");
}

#[test]
fn what_another_program_left_is_not_trusted() {
    let content = weights(500_000);
    let server = Server::new(&files(&content), Faults::default());
    let path = unfinished(&server, &content);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // Other bytes, and then more than there can be.
    for left in [100_000, 900_000] {
        fs::write(&path, vec![7; left]).unwrap();
        let snapshot = pull(&server.hub()).unwrap();
        assert_eq!(fs::read(snapshot.path.join(WEIGHTS)).unwrap(), content);
        fs::remove_dir_all(snapshot.path).unwrap();
        fs::remove_file(folder(&server).join("blobs").join(sha256(&content))).unwrap();
    }
    assert_eq!(ranges(&server), [Some(100_000), None, None]);
}

#[test]
fn a_disk_that_is_too_small_is_told_before_anything_comes() {
    let content = weights(3 << 20);
    let server = Server::new(&files(&content), Faults::default());
    let options = PullOptions {
        free_space: |_| Ok(1 << 20),
        ..quick()
    };
    let error = pull(&Hub::new(server.settings(), options)).unwrap_err();
    assert!(matches!(error, HubError::DiskFull { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("3.0 MiB are needed and 1.0 MiB are free"),
        "{text}"
    );
    assert!(text.contains("HF_HUB_CACHE"), "{text}");
    assert!(ranges(&server).is_empty() && !folder(&server).exists());
    // What is there already needs no room.
    fs::create_dir_all(folder(&server).join("blobs")).unwrap();
    fs::write(unfinished(&server, &content), &content[..5 << 19]).unwrap();
    let options = PullOptions {
        free_space: |_| Ok(1 << 20),
        ..quick()
    };
    pull(&Hub::new(server.settings(), options)).unwrap();
}

#[test]
fn a_missing_token_is_an_error_that_says_where_to_get_one() {
    let server = Server::new(&files(&[1]), Faults::default());
    let gated = |status| Faults {
        token: Some(("hf_right".into(), status)),
        ..Faults::default()
    };
    server.set_faults(gated(401));
    let error = pull(&server.hub()).unwrap_err().to_string();
    let url = format!(
        "{}/api/models/owner/model/revision/main: 401 (Access to model",
        server.endpoint
    );
    assert!(error.starts_with(&url), "{error}");
    for part in [
        "HF_TOKEN",
        "/settings/tokens",
        "hf auth login",
        "accept the licence",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let error = pull(&server.hub_with_token("hf_wrong"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("the token of HF_TOKEN is not accepted"),
        "{error}"
    );
    server.set_faults(gated(403));
    let error = pull(&server.hub_with_token("hf_wrong"))
        .unwrap_err()
        .to_string();
    let page = format!("accept the licence at {}/owner/model", server.endpoint);
    assert!(
        error.contains(&page) && !error.contains("hf_wrong"),
        "{error}"
    );
}

#[test]
fn a_busy_hub_is_asked_again_and_a_refusal_is_not() {
    let content = weights(1000);
    let busy = |status, times| Faults {
        busy: Some((status, times)),
        ..Faults::default()
    };
    let server = Server::new(&files(&content), busy(503, 2));
    pull(&server.hub()).unwrap();
    let server = Server::new(&files(&content), busy(429, 100));
    let error = pull(&server.hub()).unwrap_err().to_string();
    assert!(
        error.contains("429") && error.contains("asked too often"),
        "{error}"
    );
    let asked = |server: &Server| {
        server
            .requests()
            .iter()
            .filter(|r| !r.path.starts_with("/api/"))
            .count()
    };
    assert_eq!(asked(&server), 3);
    let server = Server::new(&files(&content), busy(403, 100));
    assert!(pull(&server.hub()).is_err());
    assert_eq!(asked(&server), 1);
}

#[test]
fn offline_nothing_is_asked() {
    let content = weights(1000);
    let server = Server::new(&files(&content), Faults::default());
    let offline = HubSettings {
        offline: true,
        ..server.settings()
    };
    let offline = Hub::new(offline, quick());
    let error = pull(&offline).unwrap_err().to_string();
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
    let error = offline.offline(&repo()).unwrap_err().to_string();
    assert!(
        error.contains("owner/model is not in the cache") && error.contains("HF_HUB_OFFLINE"),
        "{error}"
    );
    assert!(server.requests().is_empty());
    let pulled = pull(&server.hub()).unwrap();
    assert_eq!(offline.offline(&repo()).unwrap().path, pulled.path);
}

#[test]
fn stopping_keeps_what_came() {
    let content = weights(20_000_000);
    let server = Server::new(&files(&content), Faults::default());
    let error = pull_watched(&server.hub(), &mut |_| ControlFlow::Break(())).unwrap_err();
    assert!(matches!(error, HubError::Interrupted), "{error}");
    assert!(!folder(&server).join("refs/main").exists());
    let snapshot = pull(&server.hub()).unwrap();
    assert_eq!(fs::read(snapshot.path.join(WEIGHTS)).unwrap(), content);
}

#[test]
fn a_hub_that_is_not_there_is_named() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let folder = tempfile::tempdir().unwrap();
    let settings = HubSettings {
        cache: folder.path().into(),
        endpoint: endpoint.clone(),
        token: None,
        offline: false,
    };
    let error = pull(&Hub::new(settings, quick())).unwrap_err().to_string();
    assert!(
        error.starts_with(&endpoint) && error.contains("HF_ENDPOINT"),
        "{error}"
    );
}

#[test]
fn a_silent_server_does_not_hold_a_pull_for_ever() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let settings = HubSettings {
        cache: folder.path().into(),
        endpoint: format!("http://{}", silent.local_addr().unwrap()),
        token: None,
        offline: false,
    };
    let options = PullOptions {
        patience: std::time::Duration::from_millis(200),
        ..quick()
    };
    let error = pull(&Hub::new(settings, options)).unwrap_err();
    assert!(matches!(error, HubError::Connection { .. }), "{error}");
}

#[test]
fn a_hub_without_tls_may_lead_to_a_server_with_it() {
    let faults = Faults {
        claims_tls: true,
        ..Faults::default()
    };
    let server = Server::new(&[("a.safetensors", b"a")], faults);
    let error = pull(&server.hub()).unwrap_err();
    // TLS was tried.
    assert!(matches!(error, HubError::Connection { .. }), "{error}");
}

#[test]
fn names_that_lead_out_of_the_cache_are_refused() {
    for name in [
        "../../evil.json",
        "/etc/evil.json",
        "a/../../b.json",
        "c:\\\\evil.json",
    ] {
        let server = Server::new(&[("a.safetensors", b"a"), (name, b"b")], Faults::default());
        let error = pull(&server.hub()).unwrap_err();
        assert!(matches!(error, HubError::Answer { .. }), "{name}: {error}");
        assert!(!folder(&server).exists());
    }
}

#[test]
fn blobs_that_lead_out_of_the_cache_are_refused() {
    for etag in ["../../../evil", "/tmp/evil", "a\\evil", ""] {
        let faults = Faults {
            plain_list: true,
            etag: Some(etag.into()),
            ..Faults::default()
        };
        let server = Server::new(&[("a.safetensors", b"a"), ("b.json", b"b")], faults);
        let error = pull(&server.hub()).unwrap_err();
        assert!(matches!(error, HubError::Answer { .. }), "{etag}: {error}");
        assert!(!folder(&server).exists());
    }
}

#[test]
fn a_pull_waits_for_another_of_the_same_file() {
    let content = weights(1000);
    let server = Server::new(&files(&content), Faults::default());
    let locks = server.folder.path().join("hub/.locks/models--owner--model");
    fs::create_dir_all(&locks).unwrap();
    let path = locks.join(format!("{}.lock", sha256(&content)));
    let held = fs::File::create(path).unwrap();
    held.lock().unwrap();
    let mut waited = 0;
    let snapshot = pull_watched(&server.hub(), &mut |progress| {
        waited += progress.notes.len();
        if !progress.notes.is_empty() {
            assert!(ranges(&server).is_empty());
            held.unlock().unwrap();
        }
        ControlFlow::Continue(())
    });
    assert_eq!(waited, 1);
    assert_eq!(snapshot.unwrap().files.len(), 4);
}

#[test]
fn what_was_left_of_a_file_that_came_otherwise_is_removed() {
    let content = weights(1000);
    let server = Server::new(&files(&content), Faults::default());
    pull(&server.hub()).unwrap();
    fs::write(unfinished(&server, &content), "left").unwrap();
    server.forget_requests();
    pull(&server.hub()).unwrap();
    assert!(!unfinished(&server, &content).exists());
    assert!(ranges(&server).is_empty());
}
