# find_package(watchdogd) gives the target watchdogd::watchdogd: the include directory, _GNU_SOURCE and threads.
include(CMakeFindDependencyMacro)
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_dependency(Threads)

# REALPATH: where /lib is a link to /usr/lib, the way up leads elsewhere. install.sh changes the way to that of its PREFIX.
get_filename_component(watchdogd_HERE "${CMAKE_CURRENT_LIST_DIR}" REALPATH)
get_filename_component(watchdogd_INCLUDE_DIR "${watchdogd_HERE}/.." ABSOLUTE)

if(NOT TARGET watchdogd::watchdogd)
  add_library(watchdogd::watchdogd INTERFACE IMPORTED)
  set_target_properties(watchdogd::watchdogd PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${watchdogd_INCLUDE_DIR}"
    INTERFACE_COMPILE_DEFINITIONS _GNU_SOURCE
    INTERFACE_LINK_LIBRARIES Threads::Threads)
endif()
