//! What a pull asks for, and what it leaves.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use longcat_hub::{Hub, HubError, Progress, Selection, Snapshot};

use super::server::{COMMIT, Faults, REPO, Server, git_sha1, repo, sha256};

/// The repository of most tests, with the weights' content.
pub fn files(weights: &[u8]) -> [(&'static str, &[u8]); 5] {
    [
        ("README.md", b"read me"),
        ("config.json", b"{}\n"),
        ("dit/config.json", b"{\"depth\": 1}"),
        ("dit/a b.safetensors", weights),
        ("tokenizer/spiece.model", b""),
    ]
}

/// Bytes that repeat nowhere near each other.
pub fn weights(count: usize) -> Vec<u8> {
    (0..count as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

pub fn pull(hub: &Hub) -> Result<Snapshot, HubError> {
    pull_watched(hub, &mut |_| ControlFlow::Continue(()))
}

pub fn pull_watched(
    hub: &Hub,
    observe: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Snapshot, HubError> {
    let plan = hub.plan(&repo(), &Selection::default())?;
    hub.pull(&plan, observe)
}

pub fn folder(server: &Server) -> PathBuf {
    server.folder.path().join("hub/models--owner--model")
}

pub fn unfinished(server: &Server, content: &[u8]) -> PathBuf {
    let name = format!("blobs/{}.incomplete", sha256(content));
    folder(server).join(name)
}

#[test]
fn a_pull_leaves_what_huggingface_hub_would() {
    let content = weights(1_000_000);
    let server = Server::new(&files(&content), Faults::default());
    let snapshot = pull(&server.hub()).unwrap();
    let root = folder(&server);
    assert_eq!(snapshot.path, root.join("snapshots").join(COMMIT));
    assert_eq!(snapshot.refs, ["main"]);
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    let names: Vec<&str> = snapshot.files.iter().map(|f| f.name.as_str()).collect();
    let expected = [
        "config.json",
        "dit/a b.safetensors",
        "dit/config.json",
        "tokenizer/spiece.model",
    ];
    assert_eq!(names, expected, "what is no part of a model stays away");
    for (name, bytes) in files(&content).into_iter().filter(|f| f.0 != "README.md") {
        assert_eq!(fs::read(snapshot.path.join(name)).unwrap(), bytes, "{name}");
        let blob = match name.ends_with("safetensors") {
            true => sha256(bytes),
            false => git_sha1(bytes),
        };
        let link = fs::read_link(snapshot.path.join(name)).unwrap();
        let up = if name.contains('/') {
            "../../../"
        } else {
            "../../"
        };
        assert_eq!(link, Path::new(&format!("{up}blobs/{blob}")));
    }
    assert!(server.folder.path().join("hub/CACHEDIR.TAG").is_file());
    // What git and sha256sum say of a line and of nothing.
    assert_eq!(
        git_sha1(b"{}\n"),
        "0967ef424bce6791893e9a57bb952f80fd536e93"
    );
    assert!(
        root.join("blobs/e69de29bb2d1d6434b8b29ae775ad8c2e48c5391")
            .is_file()
    );
}

#[test]
fn a_second_pull_asks_for_the_list_only() {
    let content = weights(1000);
    let server = Server::new(&files(&content), Faults::default());
    pull(&server.hub()).unwrap();
    server.forget_requests();
    let plan = server.hub().plan(&repo(), &Selection::default()).unwrap();
    assert_eq!((plan.to_come(), plan.total()), (0, 1000 + 3 + 12));
    pull(&server.hub()).unwrap();
    assert!(
        server
            .requests()
            .iter()
            .all(|r| r.path.starts_with("/api/"))
    );
}

#[test]
fn a_cache_without_snapshots_needs_links_only() {
    let content = weights(1000);
    let server = Server::new(&files(&content), Faults::default());
    let first = pull(&server.hub()).unwrap();
    fs::remove_dir_all(folder(&server).join("snapshots")).unwrap();
    server.forget_requests();
    let mut last = Progress::default();
    let again = pull_watched(&server.hub(), &mut |progress| {
        last = progress.clone();
        ControlFlow::Continue(())
    });
    assert_eq!(again.unwrap().files, first.files);
    assert_eq!(last.done, last.total);
    assert!(
        server
            .requests()
            .iter()
            .all(|r| r.path.starts_with("/api/"))
    );
}

#[test]
fn several_files_come_at_once_and_progress_ends_at_the_sum() {
    let content = weights(3_000_000);
    let mut files: Vec<(String, &[u8])> = (0..6)
        .map(|i| (format!("part-{i}.safetensors"), &content[i * 400_000..]))
        .collect();
    // The same content twice is downloaded once.
    files.push(("same.safetensors".into(), &content));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(n, c)| (n.as_str(), *c)).collect();
    let server = Server::new(&files, Faults::default());
    let mut options = super::server::quick();
    options.at_once = 4;
    let hub = Hub::new(server.settings(), options);
    let mut seen = Vec::new();
    let snapshot = pull_watched(&hub, &mut |progress| {
        seen.push((progress.done, progress.total));
        ControlFlow::Continue(())
    });
    let sum: usize = files.iter().map(|(_, content)| content.len()).sum();
    assert_eq!(seen.last(), Some(&(sum as u64, sum as u64)));
    for (name, content) in &files {
        let path = snapshot.as_ref().unwrap().path.join(name);
        assert_eq!(fs::read(path).unwrap(), *content);
    }
    let fetched = server.requests().iter().filter(|r| r.storage).count();
    assert_eq!(fetched, 6);
}

#[test]
fn patterns_choose_and_later_pulls_add() {
    let content = weights(1000);
    let server = Server::new(&files(&content), Faults::default());
    let hub = server.hub();
    let some = |include: &str| Selection::new(&[include.to_string()], &[]).unwrap();
    let go = &mut |_: &Progress| ControlFlow::Continue(());
    let plan = hub.plan(&repo(), &some("dit/*.json")).unwrap();
    let first = hub.pull(&plan, go).unwrap();
    assert_eq!(first.files.len(), 1);
    let error = hub.cache().find(&repo()).unwrap_err().to_string();
    assert!(
        error.contains("lacks weights") && error.contains("longcat pull owner/model"),
        "{error}"
    );
    let plan = hub.plan(&repo(), &some("dit/")).unwrap();
    assert_eq!(plan.to_come(), 1000);
    assert_eq!(hub.pull(&plan, go).unwrap().files.len(), 2);
    assert_eq!(hub.cache().find(&repo()).unwrap().commit, COMMIT);
}

#[test]
fn a_hub_that_lists_names_only_is_asked_for_the_rest() {
    let content = weights(1000);
    let faults = Faults {
        plain_list: true,
        ..Faults::default()
    };
    let server = Server::new(&files(&content), faults);
    let snapshot = pull(&server.hub()).unwrap();
    assert_eq!(snapshot.files.len(), 4);
    assert!(
        folder(&server)
            .join("blobs")
            .join(sha256(&content))
            .is_file()
    );
}

#[test]
fn a_token_goes_to_the_hub_and_to_no_other_server() {
    let content = weights(1000);
    let faults = Faults {
        token: Some(("hf_secret".into(), 401)),
        ..Faults::default()
    };
    let server = Server::new(&files(&content), faults);
    pull(&server.hub_with_token("hf_secret\n")).unwrap();
    let requests = server.requests();
    let (storage, hub): (Vec<_>, Vec<_>) = requests.iter().partition(|r| r.storage);
    assert!(storage.iter().all(|r| r.token.is_none()), "{storage:?}");
    assert!(hub.iter().all(|r| r.token.as_deref() == Some("hf_secret")));
    assert!(!storage.is_empty());
    let shown = format!("{:?}", server.settings())
        + &format!("{:?}", longcat_hub::Token::new("hf_secret", "HF_TOKEN"));
    assert!(!shown.contains("hf_secret"));
}

#[test]
fn a_revision_by_its_commit_needs_no_note() {
    let content = weights(1000);
    let server = Server::new(&files(&content), Faults::default());
    pull(&server.hub()).unwrap();
    let named = repo().at(COMMIT).unwrap();
    assert_eq!(server.hub().cache().find(&named).unwrap().commit, COMMIT);
    let other = repo().at("v2").unwrap();
    let error = server
        .hub()
        .plan(&other, &Selection::default())
        .unwrap_err();
    let expected = format!(
        "{}/api/models/{REPO}/revision/v2: 404 (Invalid rev id); there is no revision v2 in it",
        server.endpoint
    );
    assert_eq!(error.to_string(), expected);
}
