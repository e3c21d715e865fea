# `cmake --install` puts the binary, the libraries, the headers and the package cohort:: (find_package(cohort)) in place.
include(CMakePackageConfigHelpers)
get_property(layers GLOBAL PROPERTY COHORT_LAYERS)
foreach(layer IN LISTS layers)
  list(APPEND layer_targets cohort_${layer})
  file(GLOB_RECURSE headers RELATIVE ${PROJECT_SOURCE_DIR} CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${layer}/*.h)
  foreach(header IN LISTS headers)
    get_filename_component(folder ${header} DIRECTORY)
    install(FILES ${header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/cohort/${folder})
  endforeach()
endforeach()
install(TARGETS ${layer_targets} EXPORT cohortTargets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(TARGET cohort)
  install(TARGETS cohort RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(EXPORT cohortTargets NAMESPACE cohort:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/cohort)
configure_package_config_file(cmake/cohortConfig.cmake.in ${CMAKE_BINARY_DIR}/cohortConfig.cmake
                              INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/cohort)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/cohortConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/cohortConfig.cmake ${CMAKE_BINARY_DIR}/cohortConfigVersion.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/cohort)
install(FILES LICENSE README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
