# The images of convserve. Targets: cpu (the default), gpu, tensorflow, train.
#
#   docker build --target cpu -t convserve:cpu .
#   docker build --target gpu -t convserve:gpu .
#
# The base is any Debian-based image with Python 3.11 to 3.13 as `python`. Pin it by digest for builds that repeat:
#   --build-arg PYTHON_IMAGE=python:3.12-slim@sha256:…
# Everything else is pinned by the hashes in requirements/. Needs BuildKit; docs/deploying.md says more.
ARG PYTHON_IMAGE=python:3.12-slim

# --- The root file system of every image: the base without what installs or builds software --------------------------
FROM ${PYTHON_IMAGE} AS root
RUN python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "the base needs Python 3.11 to 3.13")' \
 # Official images come without byte code; on a read-only root each start would compile the standard library again.
 && PYTHONHASHSEED=0 python -m compileall -q -f --invalidation-mode unchecked-hash -x '/(test|tests|idlelib|lib2to3|site-packages|dist-packages)/' \
      "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
 # The list of Debian packages (/var/lib/dpkg/status) stays: scanners read it.
 && rm -rf /usr/bin/apt* /usr/lib/apt /etc/apt /var/lib/apt /var/cache/apt /var/log/* \
      /usr/bin/dpkg* /usr/lib/dpkg /usr/sbin/dpkg* /var/lib/dpkg/info /var/cache/debconf \
      /usr/share/python-wheels /usr/share/man /usr/share/info /usr/share/locale /root/.cache \
      /usr/local/bin/pip* /usr/bin/pip* \
 # Whoever passes Debian's packages on passes on their copyright files too.
 && find /usr -path '/usr/share/doc/*' -type f ! -name copyright -delete \
 && find / -xdev -type d \( -name ensurepip -o -name pip -o -name 'pip-*' -o -name setuptools -o -name 'setuptools-*' \
      -o -name 'wheel-*' -o -name pkg_resources -o -name idlelib -o -name lib2to3 \) -prune -exec rm -rf {} + \
 && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
 && echo 'convserve:x:10001:10001:convserve:/tmp:/usr/sbin/nologin' >>/etc/passwd \
 && echo 'convserve:x:10001:' >>/etc/group

# Copied into an empty image, so that what was removed is gone from every layer.
FROM scratch AS runtime
# hadolint ignore=DL3067
COPY --from=root / /
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="convserve" \
      org.opencontainers.image.description="Serves proved image classifiers over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/convserve/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1
WORKDIR /tmp
USER 10001:10001

# --- What is installed, each set in a stage of its own ---------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ONLY_BINARY=:all: PIP_ROOT_USER_ACTION=ignore
# pip stays in an environment of its own; the one that is shipped has none.
RUN python -m venv /opt/build && python -m venv --without-pip /opt/convserve

FROM builder AS wheel
COPY requirements/build.txt /src/requirements/build.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/build/bin/pip install --quiet --require-hashes -r /src/requirements/build.txt
COPY pyproject.toml README.md LICENSE /src/
COPY service /src/service
COPY training /src/training
WORKDIR /src
RUN SOURCE_DATE_EPOCH=315532800 /opt/build/bin/python -m hatchling build --target wheel --directory /wheel

FROM builder AS cpu-packages
COPY requirements/otel.txt /src/requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/build/bin/pip --python /opt/convserve/bin/python install --quiet --no-compile --require-hashes -r /src/requirements.txt
COPY deploy/finish-packages.sh /src/
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel /src/finish-packages.sh

FROM builder AS gpu-packages
COPY requirements/gpu.txt /src/requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/build/bin/pip --python /opt/convserve/bin/python install --quiet --no-compile --require-hashes -r /src/requirements.txt
COPY deploy/finish-packages.sh /src/
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel /src/finish-packages.sh

FROM builder AS tensorflow-packages
COPY requirements/tensorflow.txt /src/requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/build/bin/pip --python /opt/convserve/bin/python install --quiet --no-compile --require-hashes -r /src/requirements.txt
COPY deploy/finish-packages.sh /src/
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel /src/finish-packages.sh

FROM builder AS train-packages
COPY requirements/train.txt /src/requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/build/bin/pip --python /opt/convserve/bin/python install --quiet --no-compile --require-hashes -r /src/requirements.txt
COPY deploy/finish-packages.sh /src/
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel /src/finish-packages.sh

# Readable for every user, whatever the umask of the checkout was.
FROM builder AS models
COPY models /models
RUN chmod -R u=rwX,go=rX /models

# --- The images ------------------------------------------------------------------------------------------------------
FROM runtime AS train
COPY --from=train-packages /opt/convserve /opt/convserve
ENV TF_CPP_MIN_LOG_LEVEL=1 MPLCONFIGDIR=/tmp/matplotlib
ENTRYPOINT ["/opt/convserve/bin/convtrain"]
CMD ["--help"]

FROM runtime AS server
# A volume mounted at /mnt/models takes the place of the bundled models.
ENV CONVSERVE_MODEL_REPOSITORY=/mnt/models CONVSERVE_HOST=0.0.0.0
EXPOSE 8001 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["/opt/convserve/bin/python", "-m", "convserve.server.probe"]
ENTRYPOINT ["/opt/convserve/bin/convserve"]
CMD ["serve"]

FROM server AS tensorflow
COPY --from=tensorflow-packages /opt/convserve /opt/convserve
COPY --from=models /models /mnt/models
ENV CONVSERVE_MODEL_RUNTIME=tensorflow TF_CPP_MIN_LOG_LEVEL=1

FROM server AS gpu
COPY --from=gpu-packages /opt/convserve /opt/convserve
COPY --from=models /models /mnt/models
# Which GPUs a container sees is the device plugin's decision: NVIDIA_VISIBLE_DEVICES does not belong here.
ENV CONVSERVE_MODEL_DEVICE=cuda NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM server AS cpu
COPY --from=cpu-packages /opt/convserve /opt/convserve
COPY --from=models /models /mnt/models
