//! What is found in a cache that others filled.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use longcat_hub::{HubCache, HubError, RepoName};

const OLD: &str = "1111111111111111111111111111111111111111";
const NEW: &str = "2222222222222222222222222222222222222222";

/// A repository as `huggingface_hub` lays it out.
struct Laid {
    cache: tempfile::TempDir,
    root: PathBuf,
}

impl Laid {
    fn new(folder: &str) -> Self {
        let cache = tempfile::tempdir().unwrap();
        let root = cache.path().join(folder);
        fs::create_dir_all(root.join("blobs")).unwrap();
        fs::create_dir_all(root.join("refs")).unwrap();
        Self { cache, root }
    }

    fn file(&self, commit: &str, name: &str, blob: &str, content: &str) -> &Self {
        let pointer = self.root.join("snapshots").join(commit).join(name);
        fs::create_dir_all(pointer.parent().unwrap()).unwrap();
        fs::write(self.root.join("blobs").join(blob), content).unwrap();
        symlink(self.root.join("blobs").join(blob), pointer).unwrap();
        self
    }

    fn note(&self, revision: &str, commit: &str) -> &Self {
        let path = self.root.join("refs").join(revision);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, commit).unwrap();
        self
    }

    fn cache(&self) -> HubCache {
        HubCache::new(self.cache.path())
    }
}

fn name(text: &str) -> RepoName {
    text.parse().unwrap()
}

#[test]
fn a_name_is_found_at_main_or_at_the_revision_it_names() {
    let laid = Laid::new("models--a--b");
    laid.file(OLD, "x.gguf", "b1", "old")
        .file(NEW, "x.gguf", "b2", "new");
    laid.note("main", OLD).note("refs/pr/1", NEW);
    let cache = laid.cache();
    let found = |text: &str| cache.find(&name(text)).unwrap().commit;
    assert_eq!(found("a/b"), OLD);
    assert_eq!(found("a/b@refs/pr/1"), NEW);
    assert_eq!(found(&format!("a/b@{NEW}")), NEW);
    let path = cache.find_model(Path::new("a/b")).unwrap();
    assert_eq!(fs::read_to_string(path.join("x.gguf")).unwrap(), "old");
}

#[test]
fn what_came_in_part_is_told_and_does_not_hide_what_is_whole() {
    let index = r#"{"weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}}"#;
    let laid = Laid::new("models--a--b");
    laid.file(NEW, "dit/x.safetensors.index.json", "b1", index)
        .file(NEW, "dit/x-1.safetensors", "b2", "shard")
        .note("main", NEW);
    let error = laid.cache().find(&name("a/b")).unwrap_err().to_string();
    assert!(error.contains("lacks dit/x-2.safetensors"), "{error}");
    assert!(
        error.contains("`longcat pull a/b` downloads the rest"),
        "{error}"
    );
    laid.file(OLD, "x.gguf", "b3", "old");
    assert_eq!(laid.cache().find(&name("a/b")).unwrap().commit, OLD);
    // Content that was deleted lacks as well.
    fs::remove_file(laid.root.join("blobs/b3")).unwrap();
    assert!(laid.cache().find(&name(&format!("a/b@{OLD}"))).is_err());
}

#[test]
fn what_is_not_there_is_told_with_the_command_that_brings_it() {
    let cache = tempfile::tempdir().unwrap();
    let hub = HubCache::new(cache.path().join("none"));
    let error = hub.find_model(Path::new("a/b")).unwrap_err();
    assert!(matches!(error, HubError::NotCached { .. }));
    assert!(error.to_string().contains("`longcat pull a/b`"), "{error}");
    // Folders, and what no repository can be called, stay what they are.
    for path in [
        cache.path().to_str().unwrap(),
        "weights",
        "./a/b",
        "a/b/c",
        "~/x",
    ] {
        assert_eq!(hub.find_model(Path::new(path)).unwrap(), Path::new(path));
    }
    assert!(hub.repos().unwrap().is_empty());
}

#[test]
fn repositories_are_listed_with_sizes() {
    let laid = Laid::new("models--a--b");
    laid.file(OLD, "x.gguf", "b1", "four")
        .file(NEW, "x.gguf", "b1", "four");
    laid.file(NEW, "lora/y.safetensors", "b2", "seven77")
        .note("main", NEW);
    fs::write(laid.root.join("blobs/b3.incomplete"), "1").unwrap();
    fs::create_dir_all(laid.cache.path().join("datasets--a--b/snapshots")).unwrap();
    fs::create_dir_all(laid.cache.path().join(".locks/models--a--b")).unwrap();
    let repos = laid.cache().repos().unwrap();
    assert_eq!(repos.len(), 1);
    let repo = &repos[0];
    assert_eq!(
        (repo.name.as_str(), repo.bytes, repo.unfinished),
        ("a/b", 11, 1)
    );
    let commits: Vec<&str> = repo.snapshots.iter().map(|s| s.commit.as_str()).collect();
    assert_eq!(commits, [NEW, OLD]);
    let files = repo.snapshots[0].files.iter();
    let files: Vec<(&str, u64)> = files.map(|f| (f.name.as_str(), f.bytes)).collect();
    assert_eq!(files, [("lora/y.safetensors", 7), ("x.gguf", 4)]);
}

#[test]
fn names_are_those_of_the_hub() {
    for right in [
        "a/b",
        "meituan-longcat/LongCat-Video",
        "a/b@refs/pr/3",
        "a/b.v1_2",
    ] {
        assert_eq!(name(right).to_string(), right);
    }
    for wrong in [
        "a", "a/b/c", "/a/b", "../b", "a/..", "a/b@", "a/b@../x", "a/-b", "a--b/c", "a/b.git",
        "a b/c", "./b",
    ] {
        assert!(wrong.parse::<RepoName>().is_err(), "{wrong}");
    }
}
