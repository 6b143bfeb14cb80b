//! Kernels in CUDA C++, compiled at run time by NVRTC.

use std::ffi::{CStr, CString};
use std::sync::Mutex;

use cudarc::driver::{result as driver, sys};
use cudarc::nvrtc::{result as nvrtc, sys as nvrtc_sys};

use super::program_cache;
use super::stream::{lock, say};

/// The first kernel that was not compiled and in whose place another one serves.
static REFUSED: Mutex<Option<String>> = Mutex::new(None);

/// Keeps why a kernel was not compiled in whose place a slower one serves.
pub(crate) fn refused(what: &str, reason: &str) {
    let words = || format!("{what} could not be compiled ({reason}): a slower one serves");
    lock(&REFUSED).get_or_insert_with(words);
}

/// Why kernels in CUDA C++ do without being asked to, as far as that is known by now: they are compiled when they
/// are first needed.
pub fn kernel_problem() -> Option<String> {
    lock(&REFUSED).clone()
}

/// Compiles a source, which includes nothing, so that no CUDA headers are needed, and loads its kernel `name`
/// into the current context, where it stays for the life of the process. What an earlier run compiled is taken
/// from disk.
pub(crate) fn load(
    source: &str,
    name: &CStr,
    options: &[String],
) -> Result<sys::CUfunction, String> {
    let folder = program_cache::folder();
    let file = folder.map(|f| program_cache::file(f, source, name.to_bytes(), options));
    let kept = file.as_deref().and_then(program_cache::read);
    // One that the driver does not take, of another device perhaps, is compiled anew.
    if let Some(function) = kept.and_then(|code| function(&code, name).ok()) {
        return Ok(function);
    }
    let code = compile(source, name, options)?;
    let function = function(&code, name)?;
    if let Some(file) = file {
        program_cache::write(&file, &code);
    }
    Ok(function)
}

/// The kernel `name` of machine code, in the current context.
fn function(code: &[u8], name: &CStr) -> Result<sys::CUfunction, String> {
    // SAFETY: machine code as NVRTC wrote it, which the driver copies; the module is never unloaded.
    unsafe {
        let module =
            driver::module::load_data(code.as_ptr().cast()).map_err(|err| say("module", err))?;
        driver::module::get_function(module, name.into()).map_err(|err| say("function", err))
    }
}

/// Machine code.
fn compile(source: &str, name: &CStr, options: &[String]) -> Result<Vec<u8>, String> {
    let source = CString::new(source).map_err(|err| say("source", err))?;
    let program =
        nvrtc::create_program(&source, Some(name)).map_err(|err| say("nvrtcCreateProgram", err))?;
    // SAFETY: `program` lives until it is destroyed below, and nothing of it is used after that.
    unsafe {
        let code = nvrtc::compile_program(program, options).and_then(|()| {
            let mut size = 0;
            nvrtc_sys::nvrtcGetCUBINSize(program, &mut size).result()?;
            let mut code = vec![0u8; size];
            nvrtc_sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()).result()?;
            Ok(code)
        });
        nvrtc::destroy_program(program).map_err(|err| say("nvrtcDestroyProgram", err))?;
        code.map_err(|err| say("nvrtcCompileProgram", err))
    }
}

/// Major and minor number of a device's compute capability, which says what machine code it runs.
pub(crate) fn compute_capability(index: usize) -> Result<(i32, i32), String> {
    use sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR;
    use sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR;

    let device = driver::device::get(index as i32).map_err(|err| say("device", err))?;
    let attribute = |attribute| {
        // SAFETY: `device` was just returned by the driver.
        unsafe { driver::device::get_attribute(device, attribute) }
            .map_err(|err| say("attribute", err))
    };
    Ok((attribute(MAJOR)?, attribute(MINOR)?))
}
