# `cmake --install`: headers, a package for find_package, a heed.pc for pkg-config. All of it is
# text, the same for every architecture, so it lives under share/.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(heed_package_dir "${CMAKE_INSTALL_DATADIR}/cmake/heed")
set(heed_pkgconfig_dir "${CMAKE_INSTALL_DATADIR}/pkgconfig")
set(heed_staged "${PROJECT_BINARY_DIR}/package")

target_include_directories(heed INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
install(DIRECTORY include/heed TYPE INCLUDE COMPONENT heed_Development
        FILES_MATCHING PATTERN "*.hpp" PATTERN "*.inl")

install(TARGETS heed EXPORT heedTargets)
install(EXPORT heedTargets NAMESPACE heed:: DESTINATION ${heed_package_dir}
        COMPONENT heed_Development)
configure_package_config_file(cmake/heedConfig.cmake.in ${heed_staged}/heedConfig.cmake
                              INSTALL_DESTINATION ${heed_package_dir}
                              NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${heed_staged}/heedConfigVersion.cmake
                                 COMPATIBILITY SameMajorVersion ARCH_INDEPENDENT)
install(FILES ${heed_staged}/heedConfig.cmake ${heed_staged}/heedConfigVersion.cmake
              cmake/heedDependencies.cmake
        DESTINATION ${heed_package_dir} COMPONENT heed_Development)

# Relative to where heed.pc lies, so that the installed tree can be moved or staged.
file(RELATIVE_PATH heed_include_from_pc "${CMAKE_INSTALL_FULL_DATADIR}/pkgconfig"
     "${CMAKE_INSTALL_FULL_INCLUDEDIR}")
configure_file(cmake/heed.pc.in ${heed_staged}/heed.pc @ONLY)
install(FILES ${heed_staged}/heed.pc DESTINATION ${heed_pkgconfig_dir}
        COMPONENT heed_Development)

install(FILES LICENSE TYPE DOC COMPONENT heed_Development)
