# Causeway's origin for Homebrew, from the archive of a release. packaging/homebrew/formula fills in the words in capitals.
# No test of the project runs on a Mac: the syntax is checked, `brew audit` and `brew install` are not run.
class Causeway < Formula
  desc "Publish services from behind carrier-grade NAT through a small public machine"
  homepage "HOMEPAGE"
  url "URL"
  version "VERSION"
  sha256 "SHA256"
  license any_of: ["MIT", "Apache-2.0"]

  depends_on macos: :ventura
  depends_on :macos

  def install
    bin.install Dir["bin/*"]
    pkgshare.install Dir["share/*"]
    prefix.install "NOTICES"
  end

  def caveats
    <<~EOS
      Pair this Mac with an edge, by the code that `causeway pair` prints there:
        sudo causeway join
      Documents and samples are in #{opt_pkgshare}.
    EOS
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/causeway --version")
    assert_match version.to_s, shell_output("#{bin}/forwarder --version")
  end
end
