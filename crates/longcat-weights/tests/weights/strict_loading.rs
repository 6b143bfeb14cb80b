//! Loading is strict: whatever does not fit is an error that names it, and the module stays as it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Tensor, TensorData};
use burn_flex::Flex;
use longcat_weights::{
    LoadOptions, NameMap, NamedTensor, WeightFiles, WeightsError, collect_module, load_module,
    write_safetensors,
};

#[derive(Module, Debug)]
struct Net<B: burn::tensor::backend::Backend> {
    first: Linear<B>,
    second: Linear<B>,
}

fn net() -> Net<Flex> {
    let device = Default::default();
    Net {
        first: LinearConfig::new(3, 2).init(&device),
        second: LinearConfig::new(2, 4).with_bias(false).init(&device),
    }
}

fn tensor(name: &str, shape: [usize; 2], start: f32) -> NamedTensor {
    let values = (0..shape[0] * shape[1]).map(|i| start + i as f32).collect();
    NamedTensor {
        name: name.into(),
        data: TensorData::new::<f32, _>(values, shape),
    }
}

fn good() -> Vec<NamedTensor> {
    vec![
        tensor("mlp.0.weight", [2, 3], 0.0),
        NamedTensor {
            name: "mlp.0.bias".into(),
            data: TensorData::from([0.5f32, -0.5]),
        },
        tensor("mlp.2.weight", [4, 2], 10.0),
    ]
}

fn names() -> NameMap {
    NameMap::new(&[(r"^mlp\.0\.", "first."), (r"^mlp\.2\.", "second.")])
}

fn write(dir: &Path, tensors: &[NamedTensor]) -> WeightFiles {
    let path = dir.join("w.safetensors");
    write_safetensors(&path, tensors, &BTreeMap::new()).unwrap();
    WeightFiles::open(&path).unwrap()
}

fn load(tensors: &[NamedTensor]) -> Result<Net<Flex>, WeightsError> {
    let dir = tempfile::tempdir().unwrap();
    let mut module = net();
    let before = collect_module::<Flex, _>(&module, &NameMap::default()).unwrap();
    match load_module::<Flex, _>(
        &mut module,
        &write(dir.path(), tensors),
        &names(),
        &LoadOptions::default(),
    ) {
        Ok(_) => Ok(module),
        Err(error) => {
            let after = collect_module::<Flex, _>(&module, &NameMap::default()).unwrap();
            for (a, b) in before.iter().zip(&after) {
                assert_eq!(a.data, b.data, "{} changed in a failed load", a.name);
            }
            Err(error)
        }
    }
}

#[test]
fn weights_reach_the_layers_and_come_back_unchanged() {
    let module = load(&good()).unwrap();
    let x = Tensor::<Flex, 2>::from_floats([[1.0, 2.0, 3.0]], &Default::default());
    // By hand: [0·1+1·2+2·3, 3·1+4·2+5·3] + bias = [8.5, 25.5].
    let y = module.first.forward(x).to_data().to_vec::<f32>().unwrap();
    assert_eq!(y, vec![8.5, 25.5]);

    let back = NameMap::new(&[(r"^first\.", "mlp.0."), (r"^second\.", "mlp.2.")]);
    let mut saved = collect_module::<Flex, _>(&module, &back).unwrap();
    saved.sort_by(|a, b| a.name.cmp(&b.name));
    let mut expected = good();
    expected.sort_by(|a, b| a.name.cmp(&b.name));
    for (saved, expected) in saved.iter().zip(&expected) {
        assert_eq!(saved.name, expected.name);
        assert_eq!(saved.data, expected.data);
    }
}

#[test]
fn missing_unused_and_misshaped_keys_are_all_reported() {
    let mut tensors = good();
    tensors[0] = tensor("mlp.0.weight", [2, 5], 0.0);
    tensors[2].name = "mlp.7.weight".into();
    let message = load(&tensors).unwrap_err().to_string();
    for part in [
        "w.safetensors",
        "second.weight",
        "mlp.7.weight",
        "mlp.0.weight",
        "[2, 5]",
        "[2, 3]",
    ] {
        assert!(message.contains(part), "{part} not in {message}");
    }
}

#[test]
fn values_that_are_not_finite_are_refused_by_name() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut tensors = good();
        tensors[1].data = TensorData::from([0.5f32, bad]);
        match load(&tensors).unwrap_err() {
            WeightsError::NotFinite { key, index, .. } => {
                assert_eq!((key.as_str(), index), ("mlp.0.bias", 1));
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn integer_weights_are_refused_by_name() {
    let mut tensors = good();
    tensors[1].data = TensorData::from([1i32, 2]);
    let error = load(&tensors).unwrap_err();
    assert!(
        matches!(&error, WeightsError::WrongDtype { key, .. } if key == "mlp.0.bias"),
        "{error}"
    );
}

#[test]
fn weights_can_be_cast_while_loading() {
    let dir = tempfile::tempdir().unwrap();
    let mut module = net();
    let options = LoadOptions {
        dtype: Some(DType::BF16),
        keep_f32: Some(regex::Regex::new("^first").unwrap()),
        ..Default::default()
    };
    load_module::<Flex, _>(&mut module, &write(dir.path(), &good()), &names(), &options).unwrap();
    assert_eq!(module.first.weight.val().dtype(), DType::F32);
    assert_eq!(module.second.weight.val().dtype(), DType::BF16);
}

fn index(dir: &Path, map: &[(&str, &str)]) {
    let map: BTreeMap<_, _> = map.iter().copied().collect();
    let json = serde_json::json!({"metadata": {}, "weight_map": map});
    fs::write(dir.join("w.safetensors.index.json"), json.to_string()).unwrap();
}

#[test]
fn shards_are_read_through_their_index() {
    let dir = tempfile::tempdir().unwrap();
    let all = good();
    let none = BTreeMap::new();
    write_safetensors(&dir.path().join("a.safetensors"), &all[..2], &none).unwrap();
    write_safetensors(&dir.path().join("b.safetensors"), &all[2..], &none).unwrap();

    index(
        dir.path(),
        &[
            ("mlp.0.weight", "a.safetensors"),
            ("mlp.0.bias", "a.safetensors"),
            ("mlp.2.weight", "b.safetensors"),
        ],
    );
    let files = WeightFiles::open(dir.path()).unwrap();
    assert_eq!(files.keys().count(), 3);
    assert_eq!(
        files.info("mlp.2.weight").unwrap().file,
        dir.path().join("b.safetensors")
    );

    index(dir.path(), &[("mlp.0.weight", "c.safetensors")]);
    let error = WeightFiles::open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, WeightsError::MissingShard { shard, .. } if shard == "c.safetensors"),
        "{error}"
    );

    index(dir.path(), &[("mlp.0.weight", "b.safetensors")]);
    let error = WeightFiles::open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, WeightsError::MissingInShard { key, .. } if key == "mlp.0.weight"),
        "{error}"
    );

    index(dir.path(), &[("mlp.0.weight", "../a.safetensors")]);
    assert!(matches!(
        WeightFiles::open(dir.path()),
        Err(WeightsError::BadIndex { .. })
    ));
}

#[test]
fn truncated_and_foreign_files_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    write_safetensors(&path, &good(), &BTreeMap::new()).unwrap();
    let bytes = fs::read(&path).unwrap();
    for end in [bytes.len() - 1, bytes.len() / 2, 40, 9] {
        fs::write(&path, &bytes[..end]).unwrap();
        let error = WeightFiles::open(&path).unwrap_err();
        assert!(
            matches!(error, WeightsError::Corrupt { .. }),
            "{end}: {error}"
        );
    }
    for foreign in [
        &b"PK\x03\x04 a zip"[..],
        b"\x80\x02}q\x00.",
        b"hello, this is text",
        b"",
    ] {
        fs::write(&path, foreign).unwrap();
        let error = WeightFiles::open(&path).unwrap_err();
        let named = matches!(
            error,
            WeightsError::NotSafetensors { .. } | WeightsError::Io { .. }
        );
        assert!(named, "{foreign:?}: {error}");
        assert!(error.to_string().contains("w.safetensors"));
    }
}

#[test]
fn headers_as_long_as_a_pickle_s_first_bytes_are_read() {
    // 640 and 1152 are 80 02 and 80 04 as little-endian lengths.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    for length in [640usize, 1152] {
        write_safetensors(&path, &good(), &BTreeMap::new()).unwrap();
        let bytes = fs::read(&path).unwrap();
        let header = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let mut padded = (length as u64).to_le_bytes().to_vec();
        padded.extend_from_slice(&bytes[8..8 + header]);
        padded.resize(8 + length, b' ');
        padded.extend_from_slice(&bytes[8 + header..]);
        fs::write(&path, padded).unwrap();
        assert_eq!(WeightFiles::open(&path).unwrap().keys().count(), 3);
    }
}

#[test]
fn an_interrupted_write_leaves_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    write_safetensors(&path, &good(), &BTreeMap::new()).unwrap();
    let before = fs::read(&path).unwrap();
    let bad = [NamedTensor {
        name: "b".into(),
        data: TensorData::from([true, false]),
    }];
    assert!(write_safetensors(&path, &bad, &BTreeMap::new()).is_err());
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(512))]

    #[test]
    fn damaged_files_never_panic(position in 0usize..600, byte: u8, cut in 0usize..600) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        write_safetensors(&path, &good(), &BTreeMap::new()).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let at = position % bytes.len();
        bytes[at] = byte;
        bytes.truncate(bytes.len().max(1) - cut % bytes.len());
        fs::write(&path, &bytes).unwrap();
        if let Ok(files) = WeightFiles::open(&path) {
            for key in files.keys() {
                let _ = files.tensor_data(key);
            }
        }
    }

    #[test]
    fn damaged_indexes_never_panic(text in "\\PC{0,80}", key in "[a-z.0-9]{0,12}", shard in "\\PC{0,20}") {
        let dir = tempfile::tempdir().unwrap();
        write_safetensors(&dir.path().join("a.safetensors"), &good(), &BTreeMap::new()).unwrap();
        fs::write(dir.path().join("w.safetensors.index.json"), &text).unwrap();
        proptest::prop_assert!(WeightFiles::open(dir.path()).is_err());
        index(dir.path(), &[(&key, &shard)]);
        let _ = WeightFiles::open(dir.path());
    }
}
