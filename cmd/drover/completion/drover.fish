# fish completion for drover
function __drover_complete
	set -l words (commandline -opc)
	set -l out ($words[1] __complete fish $words[2..-1] (commandline -ct) 2>/dev/null)
	if test "$out[1]" = :files
		__fish_complete_path (commandline -ct)
		return
	end
	printf '%s\n' $out
end
complete -c drover -f -a '(__drover_complete)'
